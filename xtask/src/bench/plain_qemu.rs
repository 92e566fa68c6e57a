//! QEMU as one would use it without pyro: Debian's kernel boots the same root file system, from an
//! initial file system of busybox and the modules that this takes, and runs a command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::process::{self, Ended};
use crate::workspace;

/// The modules a root file system on a virtio disk takes, in an order in which they can be loaded.
const MODULES: [&str; 5] = ["virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "squashfs"];

/// And a network device, besides.
const NETWORK_MODULES: [&str; 3] = ["failover", "net_failover", "virtio_net"];

/// PID 1. The command is in `/command`, and what sets up a network in `/network`; `status` is what becomes of the
/// command.
const INIT: &str = "\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
for module in /modules/*.ko; do $b insmod $module; done
$b mount -t squashfs -o ro /dev/vda /root
$b mount -t devtmpfs dev /root/dev
$b mount -t proc proc /root/proc
$b mount -t tmpfs tmp /root/tmp
. /network
$b chroot /root sh -c \"$($b cat /command)\"
echo \"status $?\"
$b reboot -f
";

/// What is to be booted.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    pub(super) accelerator: &'static str,
    /// Debian's, with its modules beside it.
    pub(super) kernel: PathBuf,
    /// The root file system.
    pub(super) image: PathBuf,
    pub(super) command: String,
    pub(super) network: Option<Network>,
}

/// The network of a machine that is, for the rest, like pyro's VMs.
#[derive(Debug, Clone)]
pub(super) struct Network {
    /// Of the guest, both with the length of the network.
    pub(super) address: &'static str,
    pub(super) gateway: &'static str,
}

/// Of pyro's VMs, where they are emulated. Some features of a CPU cost more than they give there, and copying
/// much is what a network is about.
const EMULATED_CPU_OF_PYRO: &str =
    "max,-erms,-fsrm,-la57,-smap,-smep,-umip,-pku,-pks,-pcid,-invpcid";
const KERNEL_OPTIONS_OF_PYRO: &str = " audit=0 psi=0 lsm=landlock init_on_alloc=0 norandmaps";

/// A machine that boots, runs its command, and is gone.
#[derive(Debug)]
pub(super) struct PlainQemu {
    guest: Guest,
    initramfs: PathBuf,
}

impl PlainQemu {
    /// Makes the initial file system below `place`.
    pub(super) fn prepare(guest: Guest, place: &Path) -> Result<Self, String> {
        let initramfs = place.join("initramfs");
        let tree = place.join("initramfs.d");
        fill(&tree, &guest)?;
        let mut names = String::new();
        for directory in ["", "bin", "modules"] {
            for entry in fs_err::read_dir(tree.join(directory)).map_err(|e| e.to_string())? {
                let name = entry.map_err(|error| error.to_string())?.file_name();
                names += &format!("{}\n", Path::new(directory).join(name).display());
            }
        }
        let list = place.join("initramfs.names");
        fs_err::write(&list, names).map_err(|error| error.to_string())?;
        let names = fs_err::File::open(&list).map_err(|error| error.to_string())?;
        let archive = fs_err::File::create(&initramfs).map_err(|error| error.to_string())?;
        let mut pack = Command::new("busybox");
        pack.args(["cpio", "-o", "-H", "newc"]).current_dir(&tree);
        pack.stdin(names.into_file()).stdout(archive.into_file()).stderr(Stdio::null());
        workspace::status(&mut pack)?;
        Ok(Self { guest, initramfs })
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        let is_like_pyro = self.guest.network.is_some();
        let emulated_cpu = if is_like_pyro { EMULATED_CPU_OF_PYRO } else { "max" };
        let (machine, cpu, clock) = match self.guest.accelerator {
            "kvm" => ("microvm,accel=kvm", "host", String::new()),
            // What Linux needs where it is emulated; see `tsc_early_khz` below.
            _ => ("microvm,accel=tcg,pit=on,pic=on,rtc=on", emulated_cpu, emulated_clock()),
        };
        command.args([
            "-M",
            &format!("{machine},acpi=on"),
            // With what newer ones would take, the initial file system overwrites the ACPI tables.
            "-bios",
            "qboot.rom",
            "-cpu",
            cpu,
            "-smp",
            "1",
            "-m",
            "1024M",
        ]);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        command.args(["-serial", "stdio", "-drive"]);
        command.arg(format!(
            "if=none,id=root,format=raw,readonly=on,file={}",
            self.guest.image.display()
        ));
        command.args(["-device", "virtio-blk-device,drive=root"]);
        command.arg("-kernel").arg(&self.guest.kernel).arg("-initrd").arg(&self.initramfs);
        let options = if is_like_pyro { KERNEL_OPTIONS_OF_PYRO } else { "" };
        let line = format!("console=ttyS0 reboot=t panic=-1 mitigations=off quiet{options}{clock}");
        command.args(["-append", &line]);
        command
    }

    /// From the start of QEMU to its exit, in milliseconds.
    pub(super) fn boot(&self) -> Result<f64, String> {
        Ok(run(&mut self.command())?.wall_ms)
    }
}

impl Network {
    /// A part of PID 1. The device tells the driver its MTU.
    fn set_up(&self) -> String {
        let Self { address, gateway } = self;
        format!(
            "$b ip link set lo up\n\
             $b ip link set eth0 up\n\
             $b ip addr add {address} dev eth0\n\
             $b ip route add default via {gateway}\n"
        )
    }
}

/// Runs such a machine, perhaps with more devices, to its end. The command in it must succeed.
pub(super) fn run(command: &mut Command) -> Result<Ended, String> {
    let ended = process::time(command)?;
    // QEMU's own status says nothing about what happened in the guest.
    if !ended.output.contains("status 0") {
        return Err(format!("the command failed in plain QEMU:\n{}", ended.output));
    }
    Ok(ended)
}

/// Puts the files of the initial file system in place.
fn fill(tree: &Path, guest: &Guest) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    for directory in ["bin", "dev", "proc", "root", "modules"] {
        fs_err::create_dir_all(tree.join(directory)).map_err(text)?;
    }
    fs_err::write(tree.join("command"), &guest.command).map_err(text)?;
    let network = guest.network.as_ref().map(Network::set_up).unwrap_or_default();
    fs_err::write(tree.join("network"), network).map_err(text)?;
    fs_err::write(tree.join("init"), INIT).map_err(text)?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(tree.join("init"), executable).map_err(text)?;
    fs_err::copy(static_busybox()?, tree.join("bin/busybox")).map_err(text)?;
    let source = guest.kernel.with_file_name("modules");
    let modules: Vec<_> = fs_err::read_dir(&source)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(text)?
        .iter()
        .map(fs_err::DirEntry::path)
        .collect();
    let more = if guest.network.is_some() { &NETWORK_MODULES[..] } else { &[] };
    for (index, name) in MODULES.iter().chain(more).enumerate() {
        // Their names begin with a number: `07-virtio_blk.ko`.
        let is_it = |path: &&PathBuf| path.to_string_lossy().ends_with(&format!("-{name}.ko"));
        let module = modules.iter().find(is_it);
        let module = module.ok_or_else(|| format!("no {name}.ko in {}", source.display()))?;
        fs_err::copy(module, tree.join(format!("modules/{index}-{name}.ko"))).map_err(text)?;
    }
    Ok(())
}

/// In the initial file system there is no dynamic loader.
fn static_busybox() -> Result<PathBuf, String> {
    let path = workspace::find("busybox").ok_or("`busybox` is not installed")?;
    let program = fs_err::read(&path).map_err(|error| error.to_string())?;
    if needs_dynamic_loader(&program) {
        let path = path.display();
        return Err(format!(
            "`{path}` is no static program, but one is needed: install `busybox-static`"
        ));
    }
    Ok(path)
}

/// Whether an ELF file for 64 bits has a program header `PT_INTERP`. The text of the loader's name says
/// nothing: it is in static programs as well.
fn needs_dynamic_loader(elf: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = 3_u32.to_le_bytes();
    let number = |at: usize, bytes: usize| {
        let field = elf.get(at..at + bytes).unwrap_or_default();
        field.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte))
    };
    let (table, entry_bytes, entries) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    (0..entries).any(|index| {
        let at = table.saturating_add(index * entry_bytes);
        elf.get(at..).is_some_and(|entry| entry.starts_with(&PT_INTERP))
    })
}

/// The frequency of the clock, against which the guest's Linux would calibrate itself in vain and
/// hang. It may be wrong by a few percent: nothing here depends on the time in the guest.
fn emulated_clock() -> String {
    let cpus = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    format!(" tsc_early_khz={}", clock_khz(&cpus).unwrap_or(2_000_000))
}

fn clock_khz(cpus: &str) -> Option<u64> {
    let line = cpus.lines().find(|line| line.starts_with("cpu MHz"))?;
    let (whole, fraction) = line.split_once(": ")?.1.split_once('.')?;
    format!("{whole}{fraction:0<3.3}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_loader_is_told_from_one_without() {
        let shell = fs_err::read("/bin/sh").unwrap();
        assert!(needs_dynamic_loader(&shell));
        let mut header = shell[..0x40].to_vec();
        assert!(!needs_dynamic_loader(&header), "a table that is cut off");
        header[0x38..0x3a].fill(0);
        assert!(!needs_dynamic_loader(&header), "an empty table");
        assert!(!needs_dynamic_loader(b"#!"));
    }

    #[test]
    fn the_clock_of_the_first_cpu_is_read_in_khz() {
        let cpus = "processor\t: 0\ncpu MHz\t\t: 2399.98\ncache size\t: 1 KB\ncpu MHz\t\t: 1.0\n";
        assert_eq!(clock_khz(cpus), Some(2_399_980));
        assert_eq!(clock_khz("cpu MHz\t\t: 2000.000\n"), Some(2_000_000));
        assert_eq!(clock_khz("processor\t: 0\n"), None);
    }
}
