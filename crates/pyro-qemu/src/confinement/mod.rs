//! What keeps a QEMU that its guest took over away from the host.
//!
//! QEMU's authors do not treat its emulation as a security boundary, so the boundary is drawn again
//! around the process: another user, namespaces with nothing in them, Landlock, resource limits, and
//! QEMU's own system call filter. A host may refuse some of this, above all a container. What it
//! allows is found out once, by [`probe`]; a VM that then cannot have it does not start.

mod cgroup;

mod landlock;

mod limits;

mod tree;

pub(crate) use self::cgroup::ControlGroup;
pub use self::cgroup::Controller;
pub(crate) use self::landlock::Landlock;
pub(crate) use self::limits::Limits;
pub(crate) use self::tree::Tree;

use std::path::Path;

use pyro_protocol::client::{Accelerator, Confinement, Namespaces, QemuIdentity};
use rustix::fs::Uid;
use serde::{Deserialize, Serialize};

use crate::machine::CommandLine;
use crate::process::QemuProcess;

/// The user that owns nothing, by an old convention (`overflowuid`, `user_namespaces(7)`).
pub(crate) const NOBODY: u32 = 65534;

/// How far a QEMU can be confined on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfinementProbe {
    /// `None` where QEMU does not start at all; then `refused` tells why.
    pub in_force: Option<Confinement>,
    /// The version of Landlock's interface in the kernel; 0 where it has none.
    pub landlock_abi: i32,
    /// What control groups limit beyond the limits of the process itself.
    pub control_group: Vec<Controller>,
    /// What would be better, and why it cannot be had.
    pub refused: Vec<Refused>,
}

/// A confinement that this host does not allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub confinement: Confinement,
    pub reason: String,
}

/// Finds the best confinement in which the program at `qemu` starts. Takes some hundredths of a second.
///
/// To be called on a thread that lives until this is done: a confined process dies with the thread
/// that started it.
pub async fn probe(qemu: &Path, accelerator: Accelerator) -> ConfinementProbe {
    let mut probe = ConfinementProbe {
        in_force: None,
        landlock_abi: crate::sys::landlock_abi(),
        control_group: Vec::new(),
        refused: Vec::new(),
    };
    for confinement in candidates(rustix::process::geteuid(), accelerator) {
        match try_out(qemu, accelerator, confinement).await {
            Ok(control_group) => {
                probe.in_force = Some(confinement);
                probe.control_group = control_group;
                break;
            }
            Err(reason) => probe.refused.push(Refused { confinement, reason }),
        }
    }
    probe
}

async fn try_out(
    qemu: &Path,
    accelerator: Accelerator,
    confinement: Confinement,
) -> Result<Vec<Controller>, String> {
    let line = CommandLine::version(accelerator);
    let mut process =
        QemuProcess::spawn(qemu, line, confinement).map_err(|error| crate::causes(&error))?;
    match process.wait().await {
        Ok(end) if end.status.success() => Ok(process.control_group().to_vec()),
        Ok(end) => Err(format!("QEMU ended with {}: {}", end.status, end.complaint)),
        Err(error) => Err(error.to_string()),
    }
}

/// From the best to the least. All of them keep Landlock, resource limits, and the filter.
fn candidates(user: Uid, accelerator: Accelerator) -> Vec<Confinement> {
    use Namespaces as N;
    use QemuIdentity as I;
    let all = if user.is_root() {
        vec![
            (I::Nobody, N::All),
            (I::UserNamespace, N::All),
            (I::UserNamespace, N::WithoutFileTree),
            (I::Nobody, N::None),
            (I::Caller, N::None),
        ]
    } else {
        vec![
            (I::UserNamespace, N::All),
            (I::UserNamespace, N::WithoutFileTree),
            (I::Caller, N::None),
        ]
    };
    // The device may belong to root alone. Only in a file tree of its own can nobody have it.
    let needs_device = |(identity, namespaces)| {
        accelerator == Accelerator::Kvm && identity == I::Nobody && namespaces != N::All
    };
    all.into_iter()
        .filter(|candidate| !needs_device(*candidate))
        .map(|(identity, namespaces)| Confinement { identity, namespaces })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;

    use super::*;

    const LEAST: Confinement =
        Confinement { identity: QemuIdentity::Caller, namespaces: Namespaces::None };

    /// Everything that this user may have; the tests run as root and as others.
    fn all() -> Vec<Confinement> {
        candidates(rustix::process::geteuid(), Accelerator::Tcg)
    }

    /// What a shell script in QEMU's place writes to its standard error.
    async fn shell(confinement: Confinement, script: &str) -> String {
        said(confinement, CommandLine::for_test(&["-c", &format!("exec >&2; {script}")])).await
    }

    async fn said(confinement: Confinement, line: CommandLine) -> String {
        let shell = Path::new("/bin/bash");
        let mut process = QemuProcess::spawn(shell, line, confinement).unwrap();
        process.wait().await.unwrap().complaint
    }

    #[tokio::test]
    async fn the_probe_finds_the_best_that_works() {
        let qemu =
            crate::executable::find(crate::executable::PROGRAM, "/usr/bin".as_ref()).unwrap();
        let probe = probe(&qemu, Accelerator::Tcg).await;
        assert_eq!(probe.in_force, Some(all()[0]), "{probe:#?}");
        assert_eq!(probe.refused, []);
    }

    #[tokio::test]
    async fn the_probe_tells_why_a_program_does_not_start() {
        let probe = probe(Path::new("/bin/false"), Accelerator::Tcg).await;
        assert_eq!(probe.in_force, None);
        assert_eq!(probe.refused.len(), all().len());
        assert!(probe.refused[0].reason.contains("exit status: 1"), "{probe:#?}");
    }

    #[tokio::test]
    async fn no_privilege_is_left_and_none_can_come() {
        for confinement in all() {
            let status = shell(confinement, "cat /proc/self/status || cat /proc/$$/status").await;
            if status.contains("Permission denied") {
                // Landlock hides the host's `/proc`; then another test looks from outside.
                assert_ne!(confinement.namespaces, Namespaces::All);
                continue;
            }
            for line in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert!(status.contains(&format!("{line}:\t0000000000000000")), "{status}");
            }
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
            assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
            assert!(status.contains("Groups:\t \n"), "{status}");
        }
    }

    #[tokio::test]
    async fn files_of_the_host_are_out_of_reach() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let secret = directory.path().join("secret");
        fs_err::write(&secret, "secret").unwrap();
        let (secret, directory) = (secret.display(), directory.path().display());
        let script = format!(
            "cat {secret}; cat /etc/passwd; ls /home /root /etc/ssl; ls {directory}
            echo new > {directory}/new; echo new > /tmp/new; echo new > /usr/new; mkdir /new
            rm {secret}; echo done"
        );
        for confinement in all() {
            let said = shell(confinement, &script).await;
            assert!(said.ends_with("done"), "{said}");
            assert!(!said.contains("secret\n") && !said.contains("root:"), "{said}");
            assert_eq!(said.lines().count(), 12, "eleven failures: {said}");
        }
        assert_eq!(fs_err::read_dir(directory.to_string()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn the_file_tree_holds_programs_and_nothing_else() {
        let best = all()[0];
        let said = shell(best, "cd /; echo *; echo dev/*; echo proc/[0-9]*; echo etc/*").await;
        let [root, devices, processes, configuration] = said.lines().collect::<Vec<_>>()[..] else {
            panic!("{said}");
        };
        let allowed =
            ["bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "usr"];
        assert!(root.split(' ').all(|name| allowed.contains(&name)), "{root}");
        assert_eq!(devices, "dev/null dev/urandom");
        assert_eq!(processes, "proc/1");
        assert_eq!(configuration, "etc/ld.so.cache");
    }

    #[tokio::test]
    async fn no_network_is_in_reach() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port} && echo connected; echo done");
        for confinement in all() {
            let said = shell(confinement, &script).await;
            assert!(said.ends_with("done") && !said.contains("connected"), "{said}");
        }
    }

    #[tokio::test]
    async fn no_other_process_is_in_reach() {
        let this = std::process::id();
        let script = format!("kill -0 {this} && echo reached; kill -0 -1 && echo all; echo done");
        for confinement in all() {
            let said = shell(confinement, &script).await;
            assert!(said.ends_with("done"), "{said}");
            assert!(!said.contains("reached"), "{confinement:?}: {said}");
        }
    }

    #[tokio::test]
    async fn only_files_that_are_passed_are_open() {
        // As a careless ancestor would have it.
        let careless = tempfile::tempfile().unwrap();
        rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).unwrap();
        let mut passed = tempfile::tempfile().unwrap();
        passed.write_all(b"passed").unwrap();
        for confinement in all() {
            // From 10 on bash keeps what it redirects.
            let script =
                "for fd in {3..9} {20..255}; do { : <&$fd; } 2>/dev/null && echo $fd; done >&2";
            let mut line = CommandLine::for_test(&["-c", script]);
            line.files.push((OwnedFd::from(passed.try_clone().unwrap()), 7));
            assert_eq!(said(confinement, line).await, "7", "{confinement:?}");
        }
    }

    #[tokio::test]
    async fn a_file_in_memory_can_be_opened_again_by_its_number() {
        for confinement in all() {
            let flags = rustix::fs::MemfdFlags::CLOEXEC;
            let memory = rustix::fs::memfd_create("test", flags).unwrap();
            rustix::io::write(&memory, b"from memory").unwrap();
            let mut line =
                CommandLine::for_test(&["-c", "read text < /proc/self/fd/7; echo $text >&2"]);
            line.files.push((memory, 7));
            assert_eq!(said(confinement, line).await, "from memory", "{confinement:?}");
        }
    }

    #[tokio::test]
    async fn resources_are_limited() {
        for confinement in all() {
            let said = shell(confinement, "ulimit -c; ulimit -n; ulimit -l; ulimit -v").await;
            assert_eq!(said, "0\n256\n0\n4194304", "{confinement:?}");
        }
    }

    #[test]
    fn under_kvm_nobody_needs_a_file_tree_with_the_device() {
        let root = candidates(Uid::ROOT, Accelerator::Kvm);
        assert!(!root.contains(&Confinement {
            identity: QemuIdentity::Nobody,
            namespaces: Namespaces::None
        }));
        assert_eq!(root.last(), Some(&LEAST));
    }
}
