#!/bin/sh
# Runs when all packages are installed. $1 is the root of the new system.
set -eu
etc=$1/etc

# What was for the build only.
rm -f "$etc/apt/preferences.d/pyro-build" "$etc/apt/apt.conf.d/99mmdebstrap"

# A password in a mirror's URL belongs to the host.
find "$etc/apt" -name '*.list' -exec sed -i 's#://[^/@ ]*@#://#g' {} +

# In a VM that lives for minutes neither translated package descriptions nor
# syncing every unpacked file to a disposable disk are worth their time.
echo 'Acquire::Languages "none";' >"$etc/apt/apt.conf.d/90pyro"
mv "$etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$etc/dpkg/dpkg.cfg.d/90pyro"

# Nothing of the host's identity; each VM gets its own.
rm -f "$etc/hostname" "$etc/hosts" "$etc/resolv.conf" "$etc/machine-id" \
    "$1/var/lib/dbus/machine-id"
echo 'debian' >"$etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\tdebian\n::1\tlocalhost ip6-localhost\n' >"$etc/hosts"
: >"$etc/resolv.conf"
: >"$etc/machine-id"

echo 'LANG=C.UTF-8' >"$etc/default/locale"

# Every run starts a login shell. Debian's profile starts two programs to find
# out who it is for and what its terminal allows: a quarter of a second in an
# emulated guest, where USER says the one and nobody asks the other.
sed -i 's/"\$(id -u)" -eq 0/"${USER:-}" = root/' "$etc/profile"
sed -i '/^mesg n/d' "$1/root/.profile"
# Nor does it look through a directory that is not there.
rmdir --ignore-fail-on-non-empty "$etc/profile.d"

# What differs from build to build and is worth nothing.
find "$1/var/log" -type f -exec rm -f {} +
rm -f "$1/var/cache/ldconfig/aux-cache" "$1"/var/cache/debconf/*-old "$1"/var/lib/dpkg/*-old

# Files newer than SOURCE_DATE_EPOCH are stored as old as that, so byte code
# that was compiled from them would look stale and be compiled again by every
# Python process in every VM. Its header holds the source's time: clamp that
# as well.
if [ -x "$1/usr/bin/python3" ]; then
    chroot "$1" /usr/bin/python3 -B - "$SOURCE_DATE_EPOCH" <<'EOF'
import pathlib, struct, sys

epoch = int(sys.argv[1])
for path in pathlib.Path("/usr").rglob("*.pyc"):
    with path.open("r+b") as file:
        _magic, flags, time = struct.unpack("<4sII", file.read(12))
        if flags == 0 and time > epoch:
            file.seek(8)
            file.write(struct.pack("<I", epoch))
EOF
fi
