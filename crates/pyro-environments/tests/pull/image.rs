//! What is in a pulled environment.

use std::process::Command;

use pyro_environments::{EnvironmentState, Store};

use crate::store::{base, entries, installed, shared_store};

/// The lines that `rdsquashfs` describes the image with: kind, path, mode.
fn listing() -> String {
    let image = installed(shared_store()).rootfs_image;
    let output = Command::new("rdsquashfs").arg("--describe").arg(image).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn file(path: &str) -> String {
    let image = installed(shared_store()).rootfs_image;
    let output = Command::new("rdsquashfs").args(["--cat", path]).arg(image).output().unwrap();
    assert!(output.status.success(), "{path} is missing");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_pulled_environment_is_listed_with_its_kernel() {
    let environment = installed(shared_store());
    let state = Store::at(shared_store()).inspect(base()).unwrap();
    assert!(matches!(state, EnvironmentState::Installed(_)));

    assert!(environment.packages.iter().any(|package| package.name == "apt"));
    assert!(environment.kernel.release.contains("cloud-amd64"));
    let modules = environment.kernel.modules.iter();
    let modules: Vec<_> = modules.map(|path| path.file_stem().unwrap().to_str().unwrap()).collect();
    let position = |name: &str| modules.iter().position(|module| module[3..] == *name).unwrap();
    assert!(position("virtio_ring") < position("virtio"));
    assert!(position("virtio") < position("virtio_mmio"));
    assert!(position("net_failover") < position("virtio_net"));
    for needed in ["virtio_console", "virtio_blk", "virtio_rng", "squashfs", "overlay"] {
        position(needed);
    }
    assert_eq!(entries(&shared_store().join("partial")), Vec::<std::path::PathBuf>::new());
}

#[test]
fn the_base_environment_is_small_and_complete() {
    let listing = listing();
    for present in ["usr/bin/bash", "usr/bin/apt-get", "usr/bin/ps", "usr/bin/find"] {
        assert!(listing.contains(&format!("file {present} ")), "{present} is missing");
    }
    for absent in ["usr/bin/python3", "usr/share/perl/5", "man1/bash.1", "share/doc/bash/README"] {
        assert!(!listing.contains(absent), "{absent} is there");
    }
    assert!(listing.contains("usr/share/doc/bash/copyright"));
    assert!(listing.contains("slink bin 0777 0 0 usr/bin"));
    assert!(installed(shared_store()).rootfs_bytes < 45 << 20);
}

#[test]
fn nothing_of_the_host_is_in_the_image() {
    let host_name = fs_err::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(file("/etc/hostname"), "debian\n");
    assert!(!file("/etc/hosts").split_whitespace().any(|word| word == host_name.trim()));
    assert_eq!(file("/etc/resolv.conf"), "");
    assert_eq!(file("/etc/machine-id"), "");
    let listing = listing();
    for absent in
        ["ssh_host", "file var/log/", "99mmdebstrap", "pyro-build", "var/lib/apt/lists/deb"]
    {
        assert!(!listing.contains(absent), "{absent} is there");
    }
}

#[test]
fn a_user_of_the_environment_can_install_packages() {
    let sources = file("/etc/apt/sources.list");
    assert!(
        sources.lines().any(|line| line.starts_with("deb ") && line.contains(" bookworm main"))
    );
    assert!(sources.contains("bookworm-security"));
    assert!(!file("/etc/apt/apt.conf.d/90pyro").contains("Proxy"));
}

#[test]
fn the_kernel_is_one_that_qemu_starts_directly() {
    let vmlinux = fs_err::read(&installed(shared_store()).kernel.vmlinux).unwrap();
    assert!(vmlinux.starts_with(b"\x7fELF\x02\x01"));
    assert!(vmlinux.len() > 40 << 20);
}
