#!/bin/sh
# Runs before any package is unpacked. $1 is the root of the new system.
set -eu

# Make the merged /usr by hand and forbid the package that would convert an
# unmerged one: it depends on all of perl, 47 MB that nothing else needs.
for directory in bin sbin lib lib64; do
    mkdir -p "$1/usr/$directory"
    ln -s "usr/$directory" "$1/$directory"
done
cat >"$1/etc/apt/preferences.d/pyro-build" <<EOF
Package: usrmerge
Pin: release *
Pin-Priority: -1
EOF
