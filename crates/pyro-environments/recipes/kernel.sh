#!/bin/sh
# Runs when the package lists are there. Leaves the newest kernel's image and
# modules, unpacked, in $PYRO_KERNEL_DIRECTORY. apt has checked the package
# against the signed lists; its dependencies (an initramfs builder and more)
# are for hosts that boot it and are left out.
set -eu
exec >&2
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd "$PYRO_KERNEL_DIRECTORY"

package=$(
    apt-cache show --no-all-versions "$PYRO_KERNEL_PACKAGE" |
        sed -n 's/^Depends: \(linux-image-[^ ,]*\) (= \([^)]*\)).*/\1=\2/p'
)
if [ -z "$package" ]; then
    echo "E: $PYRO_KERNEL_PACKAGE is not in the archive or names no exact kernel"
    exit 1
fi

# `apt-get download` alone does not say how much is to come.
apt-get --quiet=2 --print-uris download "$package" | {
    read -r _uri _file bytes _hash
    echo "Need to get $bytes B of archives."
}
apt-get --option APT::Status-Fd=2 download "$package"

echo "I: unpacking the kernel"
dpkg-deb --fsys-tarfile ./*.deb | tar --extract --wildcards --no-same-owner \
    './boot/vmlinuz-*' './lib/modules/*/modules.builtin' './lib/modules/*/*.ko*'
rm ./*.deb
