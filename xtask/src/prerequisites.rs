//! The programs of the host that pyro and its tests need: found, or installed with apt.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::guest_kernel;
use crate::steps::run;
use crate::workspace::search_path;

/// What is needed, and the Debian package that has it.
struct Need {
    what: What,
    package: &'static str,
}

enum What {
    Program(&'static str),
    File(&'static str),
    /// Debian leaves some out of its Python.
    PythonModule(&'static str),
}

/// What pulling an environment and running a VM need.
const RUNTIME: [Need; 9] = [
    program("qemu-system-x86_64", "qemu-system-x86"),
    program("mke2fs", "e2fsprogs"),
    program("mmdebstrap", "mmdebstrap"),
    program("tar2sqfs", "squashfs-tools-ng"),
    program("unshare", "util-linux"),
    program("mount", "mount"),
    program("newuidmap", "uidmap"),
    program("gpg", "gpg"),
    Need {
        what: What::File("/usr/share/keyrings/debian-archive-keyring.gpg"),
        package: "debian-archive-keyring",
    },
];

/// With these an environment can be built where the host allows no namespaces.
const WITHOUT_NAMESPACES: [Need; 2] =
    [program("fakechroot", "fakechroot"), program("fakeroot", "fakeroot")];

/// What the tests need besides: they also pull as another user and without namespaces, play an Internet,
/// with archives for the programs of VMs, and read the manual.
const TESTS: [Need; 13] = [
    program("fakechroot", "fakechroot"),
    program("fakeroot", "fakeroot"),
    program("useradd", "passwd"),
    program("ps", "procps"),
    program("ip", "iproute2"),
    program("dnsmasq", "dnsmasq-base"),
    program("openssl", "openssl"),
    program("curl", "curl"),
    program("git", "git"),
    program("apt-ftparchive", "apt-utils"),
    program("dpkg-deb", "dpkg"),
    program("iperf3", "iperf3"),
    program("man", "man-db"),
];

/// What makes a virtual environment. Debian's `python3` alone cannot.
const PYTHON: [Need; 2] = [
    program("python3", "python3"),
    Need { what: What::PythonModule("ensurepip"), package: "python3-venv" },
];

/// What the clients of the MCP server are installed with, and started through.
const CLIENTS: [Need; 1] = [program("bash", "bash")];

/// What the benchmark measures beside pyro. Which of the two container runtimes works depends on the
/// host's cgroups.
const BENCHMARK: [Need; 6] = [
    program("podman", "podman"),
    program("crun", "crun"),
    program("runc", "runc"),
    program("bwrap", "bubblewrap"),
    program("busybox", "busybox-static"),
    program("sqfs2tar", "squashfs-tools-ng"),
];

/// What the benchmark of the network measures beside pyro.
const NETWORK_BENCHMARK: [Need; 2] =
    [program("passt", "passt"), program("busybox", "busybox-static")];

/// What builds the guest kernels.
const GUEST_KERNEL: [Need; 9] = [
    Need { what: What::File(guest_kernel::ARCHIVE), package: "linux-source-6.1" },
    program("make", "make"),
    program("gcc", "gcc"),
    program("ld", "binutils"),
    program("flex", "flex"),
    program("bison", "bison"),
    program("bc", "bc"),
    program("xz", "xz-utils"),
    Need { what: What::File("/usr/include/libelf.h"), package: "libelf-dev" },
];

/// What builds the fuzzing engine.
const FUZZING: [Need; 1] = [program("c++", "g++")];

const fn program(name: &'static str, package: &'static str) -> Need {
    Need { what: What::Program(name), package }
}

/// Makes sure that environments can be pulled and VMs run.
pub(crate) fn for_running() -> Result<(), String> {
    require(&RUNTIME)?;
    if namespaces_work() {
        return Ok(());
    }
    println!("    this host allows no namespaces: environments will be built with fakechroot");
    require(&WITHOUT_NAMESPACES)
}

/// Makes sure that every test can run.
pub(crate) fn for_tests() -> Result<(), String> {
    require(&RUNTIME)?;
    require(&GUEST_KERNEL)?;
    require(&TESTS)?;
    require(&PYTHON)?;
    require(&CLIENTS)?;
    require(&BENCHMARK)?;
    require(&NETWORK_BENCHMARK)
}

/// Makes sure that the Python package can be built and tested.
pub(crate) fn for_python() -> Result<(), String> {
    for_running()?;
    require(&PYTHON)
}

/// Makes sure that what users would take instead of pyro can be measured too.
pub(crate) fn for_benchmark() -> Result<(), String> {
    for_running()?;
    require(&BENCHMARK)
}

/// Makes sure that the networks that users would take instead of pyro's can be measured too.
pub(crate) fn for_network_benchmark() -> Result<(), String> {
    for_running()?;
    require(&NETWORK_BENCHMARK)
}

/// Makes sure that the tests with clients of the MCP server can run.
pub(crate) fn for_clients() -> Result<(), String> {
    for_running()?;
    require(&PYTHON)?;
    require(&CLIENTS)
}

/// Makes sure that the guest kernels can be built.
pub(crate) fn for_guest_kernel() -> Result<(), String> {
    require(&GUEST_KERNEL)
}

/// Makes sure that the fuzz targets can be built.
pub(crate) fn for_fuzzing() -> Result<(), String> {
    require(&FUZZING)
}

fn require(needs: &[Need]) -> Result<(), String> {
    check_platform()?;
    let packages = missing(needs);
    if packages.is_empty() {
        println!("    every program that is needed is installed");
        return Ok(());
    }
    if !is_debian() {
        return Err(advice(needs));
    }
    println!("    missing packages: {}", packages.join(" "));
    install(&packages)?;
    match missing(needs).as_slice() {
        [] => Ok(()),
        still => Err(format!("still missing after the installation: {}", still.join(" "))),
    }
}

fn check_platform() -> Result<(), String> {
    if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Ok(());
    }
    let (system, architecture) = (std::env::consts::OS, std::env::consts::ARCH);
    Err(format!("pyro runs on Linux on x86-64 only, this is {system} on {architecture}"))
}

/// The packages of whatever is not there, each once.
fn missing(needs: &[Need]) -> Vec<&'static str> {
    let directories = search_path();
    let mut packages: Vec<_> =
        needs.iter().filter(|need| !need.is_met(&directories)).map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

impl Need {
    fn is_met(&self, directories: &[PathBuf]) -> bool {
        match self.what {
            What::Program(name) => directories.iter().any(|path| path.join(name).is_file()),
            What::File(path) => Path::new(path).exists(),
            What::PythonModule(name) => has_python_module(name),
        }
    }
}

fn has_python_module(name: &str) -> bool {
    let import = format!("import {name}");
    let mut python = Command::new("python3");
    python.args(["-c", &import]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    python.status().is_ok_and(|status| status.success())
}

fn advice(needs: &[Need]) -> String {
    let directories = search_path();
    let mut text = "this is neither Debian nor Ubuntu, so please install by yourself:".to_owned();
    for need in needs.iter().filter(|need| !need.is_met(&directories)) {
        let (What::Program(what) | What::File(what) | What::PythonModule(what)) = need.what;
        text += &format!("\n  {what} (on Debian in the package `{}`)", need.package);
    }
    text
}

fn is_debian() -> bool {
    let release = fs_err::read_to_string("/etc/os-release").unwrap_or_default();
    names_debian(&release) && search_path().iter().any(|path| path.join("apt-get").is_file())
}

/// Whether an `os-release` file is Debian's, or that of a distribution made from it.
fn names_debian(release: &str) -> bool {
    release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split(' '))
        .any(|name| matches!(name, "debian" | "ubuntu"))
}

fn install(packages: &[&str]) -> Result<(), String> {
    run(apt_get().args(["--quiet=2", "update"]))?;
    run(apt_get()
        .args(["--quiet=2", "--yes", "--no-install-recommends", "install"])
        .args(packages)
        .stdin(Stdio::null()))
}

/// As root, or with `sudo`, which must be told what to keep of the environment.
fn apt_get() -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("env")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("env");
        sudo
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]).args([
        "--option=Acquire::Retries=3",
        // Another apt may be at work, as on a machine that has just been made.
        "--option=DPkg::Lock::Timeout=300",
        "--option=Dpkg::Use-Pty=0",
    ]);
    command
}

/// Whether an environment can be built in namespaces, as root or as this user.
fn namespaces_work() -> bool {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user", "--map-auto"]);
    }
    command
        .args(["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let Ok(mut child) = command.spawn() else { return false };
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let works = child.wait().is_ok_and(|status| status.success());
    // Where it is refused a user namespace, `unshare` 2.38 ends without its helper, which would
    // wait for it for ever.
    if let Some(group) = group {
        kill_process_group(group, Signal::KILL).ok();
    }
    works
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_what_is_made_from_it_are_recognised() {
        assert!(names_debian("NAME=\"Debian GNU/Linux\"\nID=debian\n"));
        assert!(names_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!names_debian("ID=fedora\nID_LIKE=\"rhel\"\n"));
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let needs = [program("no-such-program-of-pyro", "some-package"), program("sh", "dash")];
        assert_eq!(missing(&needs), ["some-package"]);
        let advice = advice(&needs);
        assert!(advice.contains("no-such-program-of-pyro"), "{advice}");
        assert!(!advice.contains("dash"), "{advice}");
    }

    #[test]
    fn a_missing_module_of_python_is_named_with_its_package() {
        let module = |name, package| Need { what: What::PythonModule(name), package };
        let needs = [module("no_such_module_of_pyro", "some-package"), module("json", "python3")];
        assert_eq!(missing(&needs), ["some-package"]);
    }
}
