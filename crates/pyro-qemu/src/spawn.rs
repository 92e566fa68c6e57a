//! Starting a confined process.
//!
//! One system call makes the process, in namespaces of its own. It arranges everything else by itself,
//! and then becomes the program. In between it is a copy of this process with one thread, in which
//! another thread's lock may be held for ever: so it makes system calls and nothing else, and
//! whatever it needs is prepared before.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use landlock::RulesetError;
use pyro_protocol::client::{Confinement, Namespaces, QemuIdentity};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{PidfdFlags, Signal, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::child::Child;
use crate::confinement::{Landlock, Limits, NOBODY, Tree};
use crate::machine::CommandLine;
use crate::sys::{self, Arguments};

/// Descriptors are moved to this and above before they get the numbers that the program knows, all of
/// which are below.
const FIRST_SPARE_DESCRIPTOR: RawFd = 64;

/// The one variable in the environment. Without it the C library reserves address space for each thread on
/// hosts with many CPUs, and there is a limit.
const FEW_ARENAS: &CStr = c"MALLOC_ARENA_MAX=4";

/// The exit code of a process that did not get as far as the program.
const NOT_STARTED: i32 = 127;

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotStarted {
    #[error("cannot prepare it")]
    CannotPrepare { source: io::Error },
    #[error("cannot write rules for Landlock")]
    NoRules { source: RulesetError },
    #[error("no more namespaces are allowed (`sysctl -a --pattern 'user.max_.*_namespaces'`)")]
    NoMoreNamespaces,
    #[error("cannot make a process with its own namespaces")]
    CannotClone { source: io::Error },
    #[error("cannot {step}")]
    StepFailed { step: &'static str, source: io::Error },
}

/// Everything the new process needs.
struct Prepared {
    program: CString,
    arguments: Arguments,
    environment: Arguments,
    identity: Identity,
    tree: Option<Tree>,
    landlock: Option<Landlock>,
    limits: Limits,
    /// Each with the number that the program knows.
    files: Vec<(OwnedFd, RawFd)>,
    /// The same for files that the process opens in its own tree, where nothing can be done to them.
    tree_files: Vec<(CString, RawFd)>,
    /// A process descriptor of the parent.
    parent: OwnedFd,
    report: OwnedFd,
}

enum Identity {
    Nobody,
    /// Nobody inside of a user namespace; outside the user that it was.
    Mapped {
        users: Vec<u8>,
        groups: Vec<u8>,
    },
    Caller,
}

impl NotStarted {
    /// Whether the same would be refused again: a matter of what is allowed, not of what there is.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::NoMoreNamespaces | Self::NoRules { .. } => true,
            Self::CannotPrepare { source }
            | Self::CannotClone { source }
            | Self::StepFailed { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::Unsupported
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::NotFound
            ),
        }
    }
}

/// What the new process does, in this order.
#[derive(Clone, Copy)]
enum Step {
    MapUser,
    MakeTree,
    LimitResources,
    DropPrivileges,
    DieWithParent,
    EnforceLandlock,
    PassFiles,
    Execute,
}

/// Every step in its order, and how it is told of.
const STEPS: [(Step, &str); 8] = [
    (Step::MapUser, "map its user into a namespace"),
    (Step::MakeTree, "make a file tree for it"),
    (Step::LimitResources, "limit its resources"),
    (Step::DropPrivileges, "drop its privileges"),
    (Step::DieWithParent, "bind its life to its parent's"),
    (Step::EnforceLandlock, "enforce Landlock"),
    (Step::PassFiles, "pass its files"),
    (Step::Execute, "execute it"),
];

/// Starts the program at this absolute path, without symbolic links; gives the reading end of its
/// standard error as well. It is killed with the calling thread.
pub(crate) fn spawn(
    program: &Path,
    line: CommandLine,
    confinement: Confinement,
) -> Result<(Child, OwnedFd), NotStarted> {
    let cannot_prepare = |source: io::Error| NotStarted::CannotPrepare { source };
    let (failure, report) = pipe().map_err(cannot_prepare)?;
    let (stderr, its_stderr) = pipe().map_err(cannot_prepare)?;
    let prepared = prepare(program, line, confinement, report, its_stderr)?;
    let cloned = sys::clone(clone_flags(confinement), || prepared.become_program());
    let (pid, pidfd) = cloned.map_err(|source| match source.kind() {
        // ENOSPC, see clone(2).
        io::ErrorKind::StorageFull => NotStarted::NoMoreNamespaces,
        _ => NotStarted::CannotClone { source },
    })?;
    let child = Child::new(pid, pidfd);
    // Closes the writing end of the report, which is then with the new process alone.
    drop(prepared);
    let mut report = Vec::new();
    File::from(failure).read_to_end(&mut report).map_err(cannot_prepare)?;
    match report[..] {
        [] => Ok((child, stderr)),
        [step, ref errno @ ..] => {
            let step = STEPS.get(usize::from(step)).map_or("start it", |(_, name)| name);
            let errno = <[u8; 4]>::try_from(errno).map_or(0, i32::from_ne_bytes);
            let source = io::Error::from_raw_os_error(errno);
            Err(NotStarted::StepFailed { step, source })
        }
    }
}

fn prepare(
    program: &Path,
    line: CommandLine,
    confinement: Confinement,
    report: OwnedFd,
    stderr: OwnedFd,
) -> Result<Prepared, NotStarted> {
    let cannot_prepare = |source: io::Error| NotStarted::CannotPrepare { source };
    let Confinement { identity, namespaces } = confinement;
    let needs_kvm = line.needs_kvm;
    let file_bytes = largest(&line.files).map_err(cannot_prepare)?;
    let mut files = line.files;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let null = null.map_err(|errno| cannot_prepare(errno.into()))?;
    files.push((null.try_clone().map_err(cannot_prepare)?, 0));
    files.push((null, 1));
    files.push((stderr, 2));
    let mut tree_files = Vec::new();
    let (tree, landlock) = match namespaces {
        Namespaces::All => {
            let as_root = identity == QemuIdentity::Nobody;
            let mut tree =
                Tree::for_program(program, needs_kvm, as_root).map_err(cannot_prepare)?;
            if identity == QemuIdentity::UserNamespace {
                let (read_only, others) = files
                    .into_iter()
                    .partition::<Vec<_>, _>(|(_, number)| line.read_only.contains(number));
                files = others;
                for (file, number) in read_only {
                    let place = tree.add_file(&file, number).map_err(cannot_prepare)?;
                    tree_files.push((place, number));
                }
            }
            (Some(tree), Landlock::in_own_tree())
        }
        Namespaces::WithoutFileTree | Namespaces::None => {
            (None, Landlock::on_host(program, needs_kvm))
        }
    };
    let files = files.into_iter().map(|(file, number)| Ok((spare(file)?, number)));
    let landlock = landlock.map_err(|source| NotStarted::NoRules { source })?;
    let parent = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .map_err(|errno| cannot_prepare(errno.into()))?;
    Ok(Prepared {
        program: c_string(program.as_os_str().as_bytes()).map_err(cannot_prepare)?,
        arguments: arguments(program, &line.arguments).map_err(cannot_prepare)?,
        environment: Arguments::new(vec![FEW_ARENAS.to_owned()]),
        identity: match identity {
            QemuIdentity::Nobody => Identity::Nobody,
            QemuIdentity::UserNamespace => Identity::mapped(),
            QemuIdentity::Caller => Identity::Caller,
        },
        tree,
        landlock: landlock
            .map(|rules| rules.map_descriptor(spare))
            .transpose()
            .map_err(cannot_prepare)?,
        limits: Limits::new(line.memory_mib, file_bytes),
        files: files.collect::<io::Result<_>>().map_err(cannot_prepare)?,
        tree_files,
        parent: spare(parent).map_err(cannot_prepare)?,
        report: spare(report).map_err(cannot_prepare)?,
    })
}

fn clone_flags(confinement: Confinement) -> i32 {
    let user = match confinement.identity {
        QemuIdentity::UserNamespace => libc::CLONE_NEWUSER,
        QemuIdentity::Nobody | QemuIdentity::Caller => 0,
    };
    let others = libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    user | match confinement.namespaces {
        Namespaces::All => others | libc::CLONE_NEWNS | libc::CLONE_NEWPID,
        Namespaces::WithoutFileTree => others,
        Namespaces::None => 0,
    }
}

impl Prepared {
    /// Runs in the new process, and returns only if it cannot become the program.
    fn become_program(&self) -> i32 {
        for (number, (step, _)) in (0_u8..).zip(STEPS) {
            if let Err(errno) = self.take(step) {
                let mut report = [number; 5];
                report[1..].copy_from_slice(&errno.raw_os_error().to_ne_bytes());
                // There is nobody else to tell.
                rustix::io::write(&self.report, &report).ok();
                break;
            }
        }
        NOT_STARTED
    }

    fn take(&self, step: Step) -> Result<(), Errno> {
        match step {
            Step::MapUser => self.identity.map_user(),
            Step::MakeTree => self.tree.as_ref().map_or(Ok(()), Tree::enter),
            Step::LimitResources => self.limits.enforce(),
            Step::DropPrivileges => self.identity.drop_privileges(),
            Step::DieWithParent => die_with(&self.parent),
            Step::EnforceLandlock => self.landlock.as_ref().map_or(Ok(()), Landlock::enforce),
            Step::PassFiles => self.pass_files(),
            Step::Execute => Err(sys::execute(&self.program, &self.arguments, &self.environment)),
        }
    }

    fn pass_files(&self) -> Result<(), Errno> {
        // Whatever else this process, and those that started it, have open.
        sys::close_on_execute(3);
        for (file, number) in &self.files {
            sys::duplicate(file.as_fd(), *number)?;
        }
        for (path, number) in &self.tree_files {
            let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            // Away from the numbers that are still to be given.
            let file = rustix::io::fcntl_dupfd_cloexec(&file, FIRST_SPARE_DESCRIPTOR)?;
            sys::duplicate(file.as_fd(), *number)?;
        }
        Ok(())
    }
}

impl Identity {
    fn mapped() -> Self {
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        Self::Mapped {
            users: format!("{NOBODY} {user} 1").into_bytes(),
            groups: format!("{NOBODY} {group} 1").into_bytes(),
        }
    }

    fn map_user(&self) -> Result<(), Errno> {
        let Self::Mapped { users, groups } = self else { return Ok(()) };
        // In this order, see user_namespaces(7).
        write_to(c"/proc/self/setgroups", b"deny")?;
        write_to(c"/proc/self/uid_map", users)?;
        write_to(c"/proc/self/gid_map", groups)
    }

    fn drop_privileges(&self) -> Result<(), Errno> {
        // Out of the terminal's reach, and of its signals.
        rustix::process::setsid()?;
        sys::leave_keyring();
        drop_bounding_set()?;
        if matches!(self, Self::Nobody) {
            let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            rustix::thread::set_thread_groups(&[])?;
            rustix::thread::set_thread_res_gid(group, group, group)?;
            rustix::thread::set_thread_res_uid(user, user, user)?;
        }
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, sets)?;
        rustix::thread::set_no_new_privs(true)
    }
}

/// Takes away what an executable could give back.
fn drop_bounding_set() -> Result<(), Errno> {
    for capability in CapabilitySet::all() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Not known to this kernel, or not this process's to take.
            Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// After every change of identity, which would forget it (prctl(2)).
fn die_with(parent: &OwnedFd) -> Result<(), Errno> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // A parent that died before would never be noticed.
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut [PollFd::new(parent, PollFlags::IN)], Some(&now))? {
        0 => Ok(()),
        _ => Err(Errno::SRCH),
    }
}

fn write_to(path: &CStr, text: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text).map(drop)
}

/// No file needs to grow beyond the largest that is passed.
fn largest(files: &[(OwnedFd, RawFd)]) -> io::Result<u64> {
    let mut largest = 0;
    for (file, _) in files {
        let bytes = rustix::fs::fstat(file)?.st_size;
        largest = largest.max(u64::try_from(bytes).unwrap_or_default());
    }
    Ok(largest)
}

fn spare(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, FIRST_SPARE_DESCRIPTOR)?)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

fn arguments(program: &Path, arguments: &[String]) -> io::Result<Arguments> {
    let program = program.as_os_str().as_bytes();
    let words = std::iter::once(program).chain(arguments.iter().map(String::as_bytes));
    Ok(Arguments::new(words.map(c_string).collect::<io::Result<_>>()?))
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(io::Error::other)
}
