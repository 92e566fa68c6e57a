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

    pub(super) const PORT: RawFd = 3;
    pub(super) const CONSOLE: RawFd = 4;
    pub(super) const MONITOR: RawFd = 5;
    pub(super) const MEMORY: RawFd = 6;
    pub(super) const KERNEL: RawFd = 7;
    pub(super) const INITRAMFS: RawFd = 8;
    pub(super) const STATE: RawFd = 9;
    pub(super) const NETWORK: RawFd = 10;
    pub(super) const FIRST_DISK: RawFd = 11;
}

/// A machine to be started. Owns every file that QEMU needs.
#[derive(Debug)]
pub struct Machine {
    pub accelerator: Accelerator,
    pub vcpu_count: u8,
    pub memory: Memory,
    pub start: Start,
    pub port: Port,
    /// A connected stream socket to which the guest's serial console is written.
    pub console: OwnedFd,
    /// A connected stream socket for QMP, see [`Monitor`](crate::monitor::Monitor).
    pub monitor: OwnedFd,
    pub disks: Vec<Disk>,
    /// `None` for a machine without a network device.
    pub nic: Option<Nic>,
}

/// The guest's memory, as a memfd of its size.
#[derive(Debug)]
pub struct Memory {
    pub mib: u32,
    pub file: OwnedFd,
    pub sharing: MemorySharing,
}

/// Whether the guest's writes reach the memory's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemorySharing {
    /// They do: the file is the memory, and can be frozen.
    Shared,
    /// They do not: what is written is copied first, and private to this machine.
    CopyOnWrite,
}

/// How the machine comes to life.
#[derive(Debug)]
pub enum Start {
    Boot(Boot),
    /// From the device state of a frozen machine with the same devices, whose memory is this one's.
    Restore {
        /// A connected stream socket over which the state comes.
        state: OwnedFd,
    },
}

/// What a boot needs.
#[derive(Debug)]
pub struct Boot {
    pub kernel: OwnedFd,
    /// The guest's first file system, a cpio archive.
    pub initramfs: OwnedFd,
    /// See [`tsc::measure_khz`](crate::tsc::measure_khz).
    pub tsc_khz: u64,
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

/// A virtio network device, whose packets come and go over a socket.
#[derive(Debug)]
pub struct Nic {
    pub mac: [u8; 6],
    /// The largest IP packet, in bytes: the guest's driver takes it from the device.
    pub mtu: u16,
    /// A connected stream socket. Each Ethernet frame follows its length, four bytes in network order.
    pub socket: OwnedFd,
}

/// A command line, and the files it speaks of by number.
#[derive(Debug)]
pub struct CommandLine {
    pub arguments: Vec<String>,
    /// Each descriptor with the number it must have in QEMU, none above 63.
    pub files: Vec<(OwnedFd, RawFd)>,
    /// Numbers of files that are shared with others, and must not be changed in any way.
    pub read_only: Vec<RawFd>,
    pub memory_mib: u32,
    pub needs_kvm: bool,
}

impl Machine {
    pub fn into_command_line(self) -> CommandLine {
        let mut line = CommandLine::new(self.accelerator, self.memory.mib);
        line.option("-M", machine_type(self.accelerator));
        line.option("-bios", FIRMWARE);
        line.option("-cpu", cpu_model(self.accelerator));
        line.option("-smp", self.vcpu_count.to_string());
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            line.arguments.push(flag.to_owned());
        }
        line.option("-display", "none");
        line.option("-sandbox", SANDBOX);
        line.memory(self.memory);
        line.socket("monitor", self.monitor, child_fd::MONITOR);
        line.option("-qmp", "chardev:monitor");
        line.socket("console", self.console, child_fd::CONSOLE);
        line.option("-serial", "chardev:console");
        line.socket("port", self.port.socket, child_fd::PORT);
        line.option("-device", "virtio-serial-device");
        line.option("-device", format!("virtserialport,chardev=port,name={}", self.port.name));
        for (index, disk) in self.disks.into_iter().enumerate() {
            line.disk(index, disk);
        }
        if let Some(nic) = self.nic {
            line.nic(nic);
        }
        match self.start {
            Start::Boot(boot) => line.boot(boot, self.accelerator),
            Start::Restore { state } => {
                line.option("-incoming", "defer");
                line.files.push((state, child_fd::STATE));
            }
        }
        line
    }
}

/// Changes whenever a machine is described differently: a frozen one cannot become another.
pub fn fingerprint(accelerator: Accelerator) -> String {
    // A test holds the whole command line of a machine against this file.
    let devices = include_str!("machine.golden");
    format!("{}\n{}\n{devices}", machine_type(accelerator), cpu_model(accelerator))
}

/// The monitor's name for the line over which the device state comes that a machine is restored from.
pub(crate) fn restored_state_uri() -> String {
    format!("fd:{}", child_fd::STATE)
}

impl CommandLine {
    fn new(accelerator: Accelerator, memory_mib: u32) -> Self {
        let needs_kvm = accelerator == Accelerator::Kvm;
        let (arguments, files, read_only) = (Vec::new(), Vec::new(), Vec::new());
        Self { arguments, files, read_only, memory_mib, needs_kvm }
    }

    /// A machine with nothing in it, which shows all the same that QEMU starts, has its accelerator, and
    /// filters its system calls. It says so on its monitor.
    pub(crate) fn empty_machine(accelerator: Accelerator, monitor: OwnedFd) -> Self {
        let mut line = Self::new(accelerator, 0);
        line.option("-M", format!("none,accel={}", accelerator.name()));
        for flag in ["-nodefaults", "-no-user-config", "-S"] {
            line.arguments.push(flag.to_owned());
        }
        line.option("-display", "none");
        line.option("-sandbox", SANDBOX);
        line.socket("monitor", monitor, child_fd::MONITOR);
        line.option("-qmp", "chardev:monitor");
        line
    }

    #[cfg(test)]
    pub(crate) fn for_test(arguments: &[&str]) -> Self {
        let mut line = Self::new(Accelerator::Tcg, 0);
        line.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        line
    }

    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.arguments.extend([name.to_owned(), value.into()]);
    }

    fn memory(&mut self, memory: Memory) {
        let share = match memory.sharing {
            MemorySharing::Shared => "on",
            MemorySharing::CopyOnWrite => "off",
        };
        self.option("-m", format!("{}M", memory.mib));
        self.option(
            "-object",
            format!(
                "memory-backend-file,id=memory,size={}M,mem-path={},share={share}",
                memory.mib,
                proc_path(child_fd::MEMORY)
            ),
        );
        self.files.push((memory.file, child_fd::MEMORY));
    }

    fn socket(&mut self, name: &str, socket: OwnedFd, number: RawFd) {
        self.option("-chardev", format!("socket,id={name},fd={number}"));
        self.files.push((socket, number));
    }

    fn boot(&mut self, boot: Boot, accelerator: Accelerator) {
        self.option("-kernel", proc_path(child_fd::KERNEL));
        self.option("-initrd", proc_path(child_fd::INITRAMFS));
        self.option("-append", kernel_command_line(boot.tsc_khz, accelerator));
        self.files.push((boot.kernel, child_fd::KERNEL));
        self.files.push((boot.initramfs, child_fd::INITRAMFS));
    }

    /// Where a machine is restored, QEMU would take it for one that comes from another host, whose writes this one
    /// has not seen, and drop what the host has cached of its disks (`drop-cache` in `qemu-block-drivers(7)`): every
    /// clone would read the root file system from the platter, and wait for that.
    fn disk(&mut self, index: usize, disk: Disk) {
        let (files, options) = match disk.image {
            Image::ReadOnly { file } => {
                self.read_only.push(self.next_disk_fd());
                (vec![file], "readonly=on")
            }
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
                "if=none,id=disk{index},format=raw,file=/dev/fdset/{index},file.locking=off,\
                 file.drop-cache=off,{options}"
            ),
        );
        self.option(
            "-device",
            format!("virtio-blk-device,drive=disk{index},serial={}", disk.serial),
        );
    }

    /// Checksums and segments are not left to the host, because there is no place for them on this line:
    /// the guest makes and checks each packet itself, and so large ones are what makes it fast.
    fn nic(&mut self, nic: Nic) {
        let number = child_fd::NETWORK;
        self.option("-netdev", format!("socket,id=network,fd={number}"));
        self.files.push((nic.socket, number));
        let mac = nic.mac.map(|byte| format!("{byte:02x}")).join(":");
        self.option(
            "-device",
            format!("virtio-net-device,netdev=network,mac={mac},host_mtu={},{LINK_IS_UP}", nic.mtu),
        );
    }

    fn next_disk_fd(&self) -> RawFd {
        let taken = self.files.iter().map(|(_, number)| number + 1).max();
        taken.unwrap_or_default().max(child_fd::FIRST_DISK)
    }
}

/// QEMU filters its own system calls: no new processes, no other user, no scheduling games.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// A guest that could ask would take the link for down until it has, and drop what is sent in its first
/// second. And it would announce itself when it is restored, to nobody.
const LINK_IS_UP: &str = "status=off,guest_announce=off";

/// The smallest machine that has what Linux needs: timer and interrupt controller of a PC for the
/// emulated case, ACPI because Debian's kernel finds virtio devices through it alone.
fn machine_type(accelerator: Accelerator) -> String {
    format!(
        "microvm,accel={},pit=on,pic=on,rtc=on,acpi=on,memory-backend=memory",
        accelerator.name()
    )
}

/// For a microvm with ACPI QEMU would take `bios-microvm.bin`. Mostly that is `SeaBIOS`, which puts the ACPI tables at
/// the top of memory. The initial file system is put there as well, a moment later, and the kernel finds its end where
/// the DSDT was. Seen with `SeaBIOS` 1.16.3 and QEMU 10.0; in Debian 12 it is a link to the one that is named here, which
/// keeps its tables below 1 MiB. Every QEMU has this one for microvms without ACPI (`hw/i386/microvm.c`).
const FIRMWARE: &str = "qboot.rom";

/// Under emulation every instruction QEMU can translate, so that programs built for newer CPUs run; but
/// none of the features that a kernel uses for itself and that cost an emulator more than they are worth.
fn cpu_model(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "host",
        Accelerator::Tcg => "max,-erms,-fsrm,-la57,-smap,-smep,-umip,-pku,-pks,-pcid,-invpcid",
    }
}

fn kernel_command_line(tsc_khz: u64, accelerator: Accelerator) -> String {
    // Loops per jiffy, as the kernel derives it from the frequency; spares the guest a calibration.
    let loops_per_jiffy = tsc_khz * 1000 / KERNEL_HZ;
    // `mitigations=off`: the guest is one tenant, and the host is protected by its own. Nobody reads an
    // audit log, pressure statistics or a profile of AppArmor there; every command would pay for them.
    // Nor is there anybody from whom `init_on_alloc` would keep what the kernel's memory held before.
    let line = format!(
        "console=ttyS0 reboot=t panic=-1 mitigations=off quiet audit=0 psi=0 lsm=landlock \
         init_on_alloc=0 tsc_early_khz={tsc_khz} lpj={loops_per_jiffy}"
    );
    match accelerator {
        Accelerator::Kvm => line,
        Accelerator::Tcg => line + FIXED_ADDRESSES + TRUSTED_CLOCK,
    }
}

/// Translated code is found by the address at which it runs. Where every program begins at another one,
/// the emulator translates its loader and the C library anew each time: to start a small program in a
/// running VM takes five times as long. Hardware does not care, and keeps the randomisation.
const FIXED_ADDRESSES: &str = " norandmaps";

/// The emulated time stamp counter is the host's, but Linux checks it against timer interrupts, of which a busy host
/// swallows some. Then it would fall back to counting these: to a clock in steps of 4 ms that is late.
const TRUSTED_CLOCK: &str = " tsc=reliable";

/// `CONFIG_HZ` of Debian's kernels, and of pyro's own.
const KERNEL_HZ: u64 = 250;

fn proc_path(fd: RawFd) -> String {
    format!("/proc/self/fd/{fd}")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use pyro_protocol::client::{Confinement, Namespaces, QemuIdentity};

    use super::*;
    use crate::executable;
    use crate::monitor::Monitor;
    use crate::process::QemuProcess;

    fn file() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    fn machine(accelerator: Accelerator) -> Machine {
        Machine {
            accelerator,
            vcpu_count: 2,
            memory: Memory { mib: 1024, file: file(), sharing: MemorySharing::Shared },
            start: Start::Boot(Boot { kernel: file(), initramfs: file(), tsc_khz: 2_500_000 }),
            monitor: file(),
            port: Port { name: "a.port", socket: file() },
            console: file(),
            disks: vec![
                Disk { serial: "first", image: Image::ReadOnly { file: file() } },
                Disk {
                    serial: "second",
                    image: Image::Writable { read_write: file(), read_only: file() },
                },
            ],
            nic: Some(Nic { mac: [2, 0, 0, 0, 0, 0xfe], mtu: 9000, socket: file() }),
        }
    }

    #[test]
    fn the_command_line_is_the_one_that_was_measured() {
        let line = machine(Accelerator::Tcg).into_command_line();
        let golden = include_str!("machine.golden");
        assert_eq!(line.arguments.join("\n"), golden.trim_end());
    }

    #[test]
    fn a_machine_without_a_network_differs_in_its_device_alone() {
        let [with, without] = [false, true].map(|is_without| {
            let mut machine = machine(Accelerator::Tcg);
            if is_without {
                machine.nic = None;
            }
            machine.into_command_line().arguments
        });
        let is_nic = |word: &String| word.contains("network") || word == "-netdev";
        let mut expected = with;
        let device = expected.iter().position(|word| word.starts_with("virtio-net-device"));
        // The option before its value.
        expected.remove(device.unwrap() - 1);
        expected.retain(|word| !is_nic(word));
        assert_eq!(without, expected);
    }

    #[test]
    fn accelerators_differ_in_two_words_and_in_what_the_kernel_is_told() {
        let [tcg, kvm] = [Accelerator::Tcg, Accelerator::Kvm].map(|accelerator| {
            let arguments = machine(accelerator).into_command_line().arguments;
            arguments
                .join("\n")
                .replace(FIXED_ADDRESSES, "")
                .replace(TRUSTED_CLOCK, "")
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        });
        let differing: Vec<_> = tcg.iter().zip(&kvm).filter(|(tcg, kvm)| tcg != kvm).collect();
        assert_eq!(tcg.len(), kvm.len());
        assert_eq!(
            differing,
            [
                (
                    &"microvm,accel=tcg,pit=on,pic=on,rtc=on,acpi=on,memory-backend=memory"
                        .to_owned(),
                    &"microvm,accel=kvm,pit=on,pic=on,rtc=on,acpi=on,memory-backend=memory"
                        .to_owned()
                ),
                (&cpu_model(Accelerator::Tcg).to_owned(), &"host".to_owned()),
            ]
        );
    }

    /// Versions of QEMU differ in what they know, and in what they still know.
    #[tokio::test]
    async fn the_qemu_of_this_host_takes_every_option() {
        let path = executable::find(executable::PROGRAM, "/usr/bin".as_ref()).unwrap();
        let socket = || OwnedFd::from(UnixStream::pair().unwrap().0);
        let (ours, its) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let of_size = |file: OwnedFd, mib: u64| {
            rustix::fs::ftruncate(&file, mib << 20).unwrap();
            file
        };
        let memory = rustix::fs::memfd_create("memory", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let image = tempfile::NamedTempFile::new().unwrap();
        let read_write = of_size(image.reopen().unwrap().into(), 1);
        let read_only = || OwnedFd::from(fs_err::File::open(image.path()).unwrap().into_file());
        let machine = Machine {
            memory: Memory {
                mib: 64,
                file: of_size(memory, 64),
                sharing: MemorySharing::CopyOnWrite,
            },
            start: Start::Restore { state: socket() },
            monitor: its.into(),
            port: Port { name: "a.port", socket: socket() },
            console: socket(),
            disks: vec![
                Disk { serial: "first", image: Image::ReadOnly { file: read_only() } },
                Disk {
                    serial: "second",
                    image: Image::Writable { read_write, read_only: read_only() },
                },
            ],
            nic: Some(Nic { mac: [2, 0, 0, 0, 0, 0xfe], mtu: 9000, socket: socket() }),
            ..machine(Accelerator::Tcg)
        };
        let least = Confinement { identity: QemuIdentity::Caller, namespaces: Namespaces::None };
        let line = machine.into_command_line();
        let mut process = QemuProcess::spawn(&path, line, least).unwrap();
        let mut monitor = Monitor::new(tokio::net::UnixStream::from_std(ours).unwrap());
        tokio::select! {
            greeted = monitor.greeted() => greeted.unwrap(),
            end = process.wait() => panic!("{end:?}"),
        }
        monitor.quit().await.unwrap();
        // Nor does it complain of any, as it does of those that the next version will not have.
        assert_eq!(process.wait().await.unwrap().complaint, "");
    }

    #[test]
    fn every_file_has_a_number_of_its_own() {
        let line = machine(Accelerator::Tcg).into_command_line();
        let mut numbers: Vec<_> = line.files.iter().map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [3, 4, 5, 6, 7, 8, 10, 11, 12, 13]);
    }
}
