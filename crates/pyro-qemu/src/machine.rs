//! A machine as QEMU's command line: a pure function of its description.
//!
//! There is one description for both accelerators. Every file reaches QEMU as an inherited
//! descriptor with a fixed number, so the arguments name no path, and a confined QEMU needs to
//! open none.

use std::os::fd::{OwnedFd, RawFd};

use pyro_protocol::client::Accelerator;

/// Descriptors as QEMU sees them, from the first free one up.
mod child_fd {
    use std::os::fd::RawFd;

    pub(super) const CHANNEL: RawFd = 3;
    pub(super) const CONSOLE: RawFd = 4;
    pub(super) const KERNEL: RawFd = 5;
    pub(super) const INITRAMFS: RawFd = 6;
    pub(super) const FIRST_DISK: RawFd = 7;
}

/// A machine to be booted. Owns every file that QEMU needs.
#[derive(Debug)]
pub struct Machine {
    pub accelerator: Accelerator,
    pub vcpu_count: u8,
    pub memory_mib: u32,
    pub kernel: OwnedFd,
    /// The guest's first file system, a cpio archive.
    pub initramfs: OwnedFd,
    /// See [`tsc::measure_khz`](crate::tsc::measure_khz).
    pub tsc_khz: u64,
    pub port: Port,
    /// A connected stream socket to which the guest's serial console is written.
    pub console: OwnedFd,
    pub disks: Vec<Disk>,
}

/// A virtio-serial port: a byte stream between guest and host.
#[derive(Debug)]
pub struct Port {
    /// The guest finds the port by this name.
    pub name: &'static str,
    /// A connected stream socket.
    pub socket: OwnedFd,
}

/// A virtio disk with a raw image.
#[derive(Debug)]
pub struct Disk {
    /// The guest finds the disk by this serial number.
    pub serial: &'static str,
    pub image: Image,
}

/// The file behind a disk.
#[derive(Debug)]
pub enum Image {
    ReadOnly {
        file: OwnedFd,
    },
    /// QEMU opens a writable image twice and picks the descriptor by its access mode.
    Writable {
        read_write: OwnedFd,
        read_only: OwnedFd,
    },
}

/// A command line, and the files it speaks of by number.
#[derive(Debug)]
pub struct CommandLine {
    pub arguments: Vec<String>,
    /// Each descriptor with the number it must have in QEMU.
    pub files: Vec<(OwnedFd, RawFd)>,
}

impl Machine {
    pub fn into_command_line(self) -> CommandLine {
        let mut line = CommandLine { arguments: Vec::new(), files: Vec::new() };
        line.option("-M", machine_type(self.accelerator));
        line.option("-cpu", cpu_model(self.accelerator));
        line.option("-smp", self.vcpu_count.to_string());
        line.option("-m", format!("{}M", self.memory_mib));
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            line.arguments.push(flag.to_owned());
        }
        line.option("-display", "none");
        line.option("-sandbox", SANDBOX);
        line.option("-kernel", proc_path(child_fd::KERNEL));
        line.option("-initrd", proc_path(child_fd::INITRAMFS));
        line.option("-append", kernel_command_line(self.tsc_khz));
        line.option("-chardev", format!("socket,id=console,fd={}", child_fd::CONSOLE));
        line.option("-serial", "chardev:console");
        line.option("-chardev", format!("socket,id=port,fd={}", child_fd::CHANNEL));
        line.option("-device", "virtio-serial-device");
        line.option("-device", format!("virtserialport,chardev=port,name={}", self.port.name));
        line.files.extend([
            (self.port.socket, child_fd::CHANNEL),
            (self.console, child_fd::CONSOLE),
            (self.kernel, child_fd::KERNEL),
            (self.initramfs, child_fd::INITRAMFS),
        ]);
        for (index, disk) in self.disks.into_iter().enumerate() {
            line.disk(index, disk);
        }
        line
    }
}

impl CommandLine {
    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.arguments.extend([name.to_owned(), value.into()]);
    }

    fn disk(&mut self, index: usize, disk: Disk) {
        let (files, options) = match disk.image {
            Image::ReadOnly { file } => (vec![file], "readonly=on"),
            // The image lives no longer than its VM, so no write must ever reach the platter. A full
            // host disk is the guest's I/O error: by default QEMU would pause the machine for ever.
            Image::Writable { read_write, read_only } => (
                vec![read_write, read_only],
                "cache=unsafe,aio=threads,discard=unmap,werror=report,rerror=report",
            ),
        };
        for file in files {
            let number = self.next_disk_fd();
            self.option("-add-fd", format!("fd={number},set={index}"));
            self.files.push((file, number));
        }
        self.option(
            "-drive",
            format!(
                "if=none,id=disk{index},format=raw,file=/dev/fdset/{index},file.locking=off,{options}"
            ),
        );
        self.option(
            "-device",
            format!("virtio-blk-device,drive=disk{index},serial={}", disk.serial),
        );
    }

    fn next_disk_fd(&self) -> RawFd {
        let taken = self.files.iter().map(|(_, number)| *number).max();
        taken.map_or(child_fd::FIRST_DISK, |highest| highest + 1)
    }
}

/// QEMU filters its own system calls: no new processes, no other user, no scheduling games.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The smallest machine that has what Linux needs: timer and interrupt controller of a PC for the
/// emulated case, ACPI because Debian's kernel finds virtio devices through it alone.
fn machine_type(accelerator: Accelerator) -> String {
    format!("microvm,accel={},pit=on,pic=on,rtc=on,acpi=on", accelerator.name())
}

/// Under emulation everything QEMU can translate, so that programs built for newer CPUs run.
fn cpu_model(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "host",
        Accelerator::Tcg => "max",
    }
}

fn kernel_command_line(tsc_khz: u64) -> String {
    // Loops per jiffy, as the kernel derives it from the frequency; spares the guest a calibration.
    let loops_per_jiffy = tsc_khz * 1000 / KERNEL_HZ;
    // `mitigations=off`: the guest is one tenant, and the host is protected by its own.
    format!(
        "console=ttyS0 reboot=t panic=-1 mitigations=off quiet \
         tsc_early_khz={tsc_khz} lpj={loops_per_jiffy}"
    )
}

/// `CONFIG_HZ` of Debian's kernels.
const KERNEL_HZ: u64 = 250;

fn proc_path(fd: RawFd) -> String {
    format!("/proc/self/fd/{fd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    fn machine(accelerator: Accelerator) -> Machine {
        Machine {
            accelerator,
            vcpu_count: 2,
            memory_mib: 1024,
            kernel: file(),
            initramfs: file(),
            tsc_khz: 2_500_000,
            port: Port { name: "a.port", socket: file() },
            console: file(),
            disks: vec![
                Disk { serial: "first", image: Image::ReadOnly { file: file() } },
                Disk {
                    serial: "second",
                    image: Image::Writable { read_write: file(), read_only: file() },
                },
            ],
        }
    }

    #[test]
    fn the_command_line_is_the_one_that_was_measured() {
        let line = machine(Accelerator::Tcg).into_command_line();
        let golden = include_str!("machine.golden");
        assert_eq!(line.arguments.join("\n"), golden.trim_end());
    }

    #[test]
    fn accelerators_differ_in_two_words() {
        let [tcg, kvm] = [Accelerator::Tcg, Accelerator::Kvm]
            .map(|accelerator| machine(accelerator).into_command_line().arguments);
        let differing: Vec<_> = tcg.iter().zip(&kvm).filter(|(tcg, kvm)| tcg != kvm).collect();
        assert_eq!(tcg.len(), kvm.len());
        assert_eq!(
            differing,
            [
                (
                    &"microvm,accel=tcg,pit=on,pic=on,rtc=on,acpi=on".to_owned(),
                    &"microvm,accel=kvm,pit=on,pic=on,rtc=on,acpi=on".to_owned()
                ),
                (&"max".to_owned(), &"host".to_owned()),
            ]
        );
    }

    #[test]
    fn every_file_has_a_number_of_its_own() {
        let line = machine(Accelerator::Tcg).into_command_line();
        let mut numbers: Vec<_> = line.files.iter().map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [3, 4, 5, 6, 7, 8, 9]);
    }
}
