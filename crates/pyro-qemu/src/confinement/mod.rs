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
pub use self::cgroup::{Controller, abandoned_groups, delete_abandoned_groups};
pub(crate) use self::landlock::Landlock;
pub(crate) use self::limits::Limits;
pub(crate) use self::tree::Tree;

use std::path::Path;
use std::time::Duration;

use pyro_protocol::client::{Accelerator, Confinement, Namespaces, QemuIdentity};
use rustix::fs::Uid;
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::machine::CommandLine;
use crate::monitor::Monitor;
use crate::process::QemuProcess;

/// The user that owns nothing, by an old convention (`overflowuid`, `user_namespaces(7)`).
pub(crate) const NOBODY: u32 = 65534;

/// For an empty machine to come up; a busy host gets the rest.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);

/// How far a QEMU can be confined on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfinementProbe {
    /// `None` where QEMU does not start at all; then `refused` tells why.
    pub in_force: Option<Confinement>,
    /// The version of Landlock's interface in the kernel; 0 where it has none.
    pub landlock_abi: i32,
    /// What control groups limit beyond the limits of the process itself.
    pub control_group: Vec<Controller>,
    /// QEMU filters its own system calls.
    pub seccomp: bool,
    /// What would be better, and why it cannot be had.
    pub refused: Vec<Refused>,
}

/// A confinement that this host does not allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub confinement: Confinement,
    pub reason: String,
    /// It would be refused again, because it is not allowed. What failed because something ran out may
    /// succeed the next time.
    pub lasting: bool,
}

impl ConfinementProbe {
    /// Whether a probe would find the same again.
    pub fn is_lasting(&self) -> bool {
        self.in_force.is_some() && self.refused.iter().all(|refused| refused.lasting)
    }

    /// Whether nothing better is known.
    pub fn is_complete(&self) -> bool {
        self.in_force.is_some() && self.refused.is_empty() && self.landlock_abi > 0 && self.seccomp
    }
}

/// Finds the best confinement in which the program at `qemu` starts and can be ended. Takes some hundredths
/// of a second for each that is tried.
///
/// To be called on a thread that lives until this is done: a confined process dies with the thread
/// that started it.
pub async fn probe(qemu: &Path, accelerator: Accelerator) -> ConfinementProbe {
    let mut probe = ConfinementProbe {
        in_force: None,
        landlock_abi: crate::sys::landlock_abi(),
        control_group: Vec::new(),
        seccomp: false,
        refused: Vec::new(),
    };
    for confinement in candidates(&Caller::this_process(), accelerator) {
        match try_out(qemu, accelerator, confinement).await {
            Ok(seen) => {
                probe.in_force = Some(confinement);
                probe.control_group = seen.control_group;
                probe.seccomp = seen.seccomp;
                break;
            }
            Err((reason, lasting)) => {
                probe.refused.push(Refused { confinement, reason, lasting });
            }
        }
    }
    probe
}

/// What was seen at a QEMU that started.
struct Seen {
    control_group: Vec<Controller>,
    seccomp: bool,
}

/// Starts an empty machine and ends it. A failure tells why, and whether it would last.
async fn try_out(
    qemu: &Path,
    accelerator: Accelerator,
    confinement: Confinement,
) -> Result<Seen, (String, bool)> {
    let passing = |error: &dyn std::fmt::Display| (error.to_string(), false);
    let (ours, its) = std::os::unix::net::UnixStream::pair().map_err(|error| passing(&error))?;
    ours.set_nonblocking(true).map_err(|error| passing(&error))?;
    let ours = UnixStream::from_std(ours).map_err(|error| passing(&error))?;
    let line = CommandLine::empty_machine(accelerator, its.into());
    let mut process = QemuProcess::spawn(qemu, line, confinement)
        .map_err(|error| (crate::causes(&error), error.is_lasting()))?;
    let mut monitor = Monitor::new(ours);
    let end = tokio::select! {
        greeted = tokio::time::timeout(PROBE_DEADLINE, monitor.greeted()) => match greeted {
            Ok(Ok(())) => None,
            // Its end closes the monitor, and how it ended tells more.
            Ok(Err(_)) => tokio::time::timeout(PROBE_DEADLINE, process.wait()).await.ok(),
            Err(_) => return Err(("QEMU does not come up in time".to_owned(), false)),
        },
        end = process.wait() => Some(end),
    };
    if let Some(end) = end {
        let end = end.map_err(|error| passing(&error))?;
        // Killed, it was not QEMU's choice.
        let lasting = end.status.code().is_some();
        return Err((format!("QEMU ended with {}: {}", end.status, end.complaint), lasting));
    }
    let seen =
        Seen { control_group: process.control_group().to_vec(), seccomp: process.has_filter() };
    match process.end().await {
        Ok(()) => Ok(seen),
        Err(error) => {
            // Or it would be there for ever.
            monitor.quit().await.ok();
            Err((format!("it cannot be ended: {error}"), true))
        }
    }
}

/// Who wants to confine a QEMU.
struct Caller {
    user: Uid,
    /// May end processes of other users.
    kills: bool,
    landlock: bool,
}

impl Caller {
    fn this_process() -> Self {
        let capabilities = rustix::thread::capabilities(None);
        Self {
            user: rustix::process::geteuid(),
            kills: capabilities.is_ok_and(|sets| sets.effective.contains(CapabilitySet::KILL)),
            landlock: crate::sys::landlock_abi() > 0,
        }
    }
}

/// From the best to the least. All of them keep Landlock, resource limits, and the filter.
fn candidates(caller: &Caller, accelerator: Accelerator) -> Vec<Confinement> {
    use Namespaces as N;
    use QemuIdentity as I;
    let mut all = if caller.user.is_root() {
        vec![
            (I::Nobody, N::All),
            (I::Nobody, N::WithoutFileTree),
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
    if caller.user.is_root() && !caller.landlock {
        // Only another user keeps root's files out of reach then.
        all.swap(3, 4);
    }
    // The device may belong to root alone. Only in a file tree of its own can nobody have it.
    let needs_device = |(identity, namespaces)| {
        accelerator == Accelerator::Kvm && identity == I::Nobody && namespaces != N::All
    };
    // A process of another user that may not be killed would be there for ever.
    let is_out_of_reach = |(identity, _)| identity == I::Nobody && !caller.kills;
    all.into_iter()
        .filter(|candidate| !needs_device(*candidate) && !is_out_of_reach(*candidate))
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
        candidates(&Caller::this_process(), Accelerator::Tcg)
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
        assert!(probe.is_complete() && probe.is_lasting(), "{probe:#?}");
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
        let script = format!("kill -0 {this} && echo reached; echo done");
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
            assert_eq!(said, "0\n256\n0\n8388608", "{confinement:?}");
        }
    }

    #[test]
    fn under_kvm_nobody_needs_a_file_tree_with_the_device() {
        let root = Caller { user: Uid::ROOT, kills: true, landlock: true };
        let root = candidates(&root, Accelerator::Kvm);
        let nobody = root.iter().filter(|candidate| candidate.identity == QemuIdentity::Nobody);
        assert!(nobody.eq([&root[0]]), "{root:?}");
        assert_eq!(root.last(), Some(&LEAST));
    }

    #[test]
    fn who_may_not_kill_others_does_not_become_another() {
        let root = Caller { user: Uid::ROOT, kills: false, landlock: true };
        let root = candidates(&root, Accelerator::Tcg);
        assert!(root.iter().all(|candidate| candidate.identity != QemuIdentity::Nobody));
    }

    #[test]
    fn without_landlock_root_is_no_owner_of_the_files_it_sees() {
        let root = Caller { user: Uid::ROOT, kills: true, landlock: false };
        let root = candidates(&root, Accelerator::Tcg);
        let first_on_host = root.iter().find(|candidate| {
            candidate.namespaces != Namespaces::All && candidate.identity != QemuIdentity::Nobody
        });
        let nobody = root.iter().rposition(|it| it.identity == QemuIdentity::Nobody);
        assert!(nobody < root.iter().position(|candidate| Some(candidate) == first_on_host));
    }

    #[tokio::test]
    async fn a_file_that_is_shared_can_be_read_and_nothing_else() {
        let mut shared = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        shared.write_all(b"shared").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs_err::set_permissions(shared.path(), mode).unwrap();
        for confinement in all().into_iter().filter(|it| it.namespaces == Namespaces::All) {
            let script = "exec >&2; cat <&10; for fd in /proc/self/fd/10 /proc/$$/fd/10; do
                echo new >$fd; chmod 000 $fd; done; echo done";
            let mut line = CommandLine::for_test(&["-c", script]);
            line.files.push((fs_err::File::open(shared.path()).unwrap().into_file().into(), 10));
            line.read_only.push(10);
            let said = said(confinement, line).await;
            assert!(said.starts_with("shared") && said.ends_with("done"), "{said}");
            assert_eq!(fs_err::read(shared.path()).unwrap(), b"shared");
            let mode = fs_err::metadata(shared.path()).unwrap().permissions();
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o644, "{said}");
        }
    }
}
