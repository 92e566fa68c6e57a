//! Messages between a client (a surface's core) and the supervisor of one VM.
//!
//! ```text
//!   client                              supervisor
//!     Launch ──────────────────────────►
//!                 ◄─────────────────── Progress …
//!                 ◄─────────────────── Ready | Failed          (exactly one)
//!     Start, stdin frames, GrantOutput ►
//!                 ◄─────────────────── output frames, GrantStdin
//!                 ◄─────────────────── Ended | RunFailed       (exactly one per run)
//!     (closes the socket) ─────────────► VM destroyed, supervisor gone
//! ```
//!
//! A VM with a life of its own answers its launch with `Done` or `Failed`. Once its creator has said `Keep`,
//! and `Known` to the answer, it goes on without it. Each further client asks for one thing after the other:
//!
//! ```text
//!     StartVm | StopVm | DeleteVm ─────►
//!                 ◄─────────────────── Progress …, then Ready | Done | Failed
//!     Start …                              as above; a run ends with its client
//! ```
//!
//! A spare answers its launch with `Done` or `Failed`, too, and then waits for whoever connects to it first and asks:
//!
//! ```text
//!   owner                               supervisor                    claimer
//!                                          ◄──────────────────────────── Claim
//!                 ◄──────────── Claimed ─── ───────────────────────────► Ready | Failed
//!                                          ◄──────────────────────────► as above; the VM ends with its claimer
//!                 ◄──────── (closes the socket)
//! ```

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::guest::BootReport;
use crate::network::{NetworkSpec, PublishedPort, Refusals};
use crate::record::{SpareRecord, VmRecord};
use crate::run::{Command, ExitStatus, RunId, Stream, TerminalSize};

/// From a client to a supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSupervisor {
    /// The first message: which VM to start. Boxed because it dwarfs the others.
    Launch(Box<LaunchSpec>),
    Start {
        run: RunId,
        command: Command,
        timeout: Duration,
    },
    GrantOutput {
        run: RunId,
        stream: Stream,
        bytes: u32,
    },
    /// Ends a run early; its `Ended` follows.
    Cancel {
        run: RunId,
    },
    /// The creator of a VM with a life of its own has heard that it is there: from now on it stays when the
    /// creator leaves, and others find it. `Done` follows.
    Keep,
    /// Has a VM with a life of its own start its machine; `Ready` or `Failed` follows.
    StartVm,
    /// Has it end its machine and keep its disk; `Done` or `Failed` follows.
    StopVm,
    /// Has a VM end for good; `Done` follows. One that ends with its client says so when nothing in it runs any more, a moment
    /// before the host has its memory back.
    DeleteVm,
    /// A run's terminal has another size now.
    Resize {
        run: RunId,
        size: TerminalSize,
    },
    /// The creator has heard that its VM stays, and knows its name. One that leaves without this takes the VM
    /// with it.
    Known,
    /// Makes a spare the sender's VM; `Ready` or `Failed` follows, or the end of the connection where somebody else
    /// was faster. Boxed because it dwarfs the others.
    Claim(Box<Claim>),
    /// Asks a spare what it is; `Spare` follows.
    DescribeSpare,
}

/// From a supervisor to a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSupervisor {
    /// The VM's start has come this far.
    Progress(LaunchPhase),
    /// The VM takes commands.
    Ready(LaunchReport),
    /// What was asked for cannot be had. The supervisor of a VM that ends with its client is gone after
    /// this.
    Failed(Failure),
    GrantStdin {
        run: RunId,
        bytes: u32,
    },
    /// What was asked for is done.
    Done,
    /// The run's process ended; every byte of its output was sent before.
    Ended {
        run: RunId,
        end: RunEnd,
    },
    /// The run has no exit status, because the VM is lost or never executed it.
    RunFailed {
        run: RunId,
        failure: Failure,
    },
    /// To the owner of a spare: somebody has it now. When that VM is gone the connection is closed.
    Claimed,
    /// What this spare is.
    Spare(Box<SpareRecord>),
}

/// Everything a supervisor must know to start one VM. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// 12 lower-case hex digits.
    pub vm_id: String,
    pub vcpu_count: u8,
    pub memory_mib: u32,
    /// The VM is destroyed this long after the launch, whatever it does.
    pub time_to_live: Duration,
    pub lifetime: Lifetime,
    pub accelerator: Accelerator,
    pub confinement: Confinement,
    pub qemu: PathBuf,
    pub mke2fs: PathBuf,
    pub start: StartPolicy,
    pub kernel_image: PathBuf,
    /// In the order in which they must be loaded.
    pub kernel_modules: Vec<PathBuf>,
    pub rootfs_image: PathBuf,
    /// Identifies the content of kernel, modules and root filesystem together.
    pub environment_digest: String,
    /// `None` for a VM without a network device.
    pub network: Option<NetworkSpec>,
    /// Written before the VM takes its first command.
    pub guest_files: Vec<GuestFile>,
    /// An existing directory of this user; the scratch disk is an unnamed file on its file system.
    pub scratch_directory: PathBuf,
}

/// What makes a spare somebody's VM: all that was not known when it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// 12 lower-case hex digits.
    pub vm_id: String,
    /// The VM is destroyed this long after the claim, whatever it does.
    pub time_to_live: Duration,
    /// `None` exactly where the spare has no network device.
    pub network: Option<NetworkSpec>,
    /// Written before the VM takes its first command.
    pub guest_files: Vec<GuestFile>,
}

/// A file that one VM has and others made from its template have not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFile {
    /// Absolute, in the guest. Its directories are made where they are missing.
    pub path: String,
    pub content: GuestFileContent,
}

/// Where the content of a guest's file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestFileContent {
    Text(String),
    /// This file of the host, read at each start of the machine; at most
    /// [`GuestFile::HOST_FILE_BYTES_MAX`].
    HostFile(PathBuf),
}

impl GuestFile {
    /// The certificates of all well-known authorities are 250 KB.
    pub const HOST_FILE_BYTES_MAX: u64 = 4 << 20;
}

/// Who decides when a VM ends, if its time to live is not over before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifetime {
    /// Its client, by leaving.
    Client,
    /// Anybody of its user, by deleting it. Its supervisor serves all that connect to the socket in this
    /// directory, keeps the record there, and removes the directory at the end. As long as it lives it holds
    /// shared locks on the `needed` directories, so that nobody deletes what the machine is started from.
    Own { directory: PathBuf, record: Box<VmRecord>, needed: Vec<PathBuf> },
    /// Its owner, who has it made ahead, by leaving; and once it is claimed, its claimer. It is restored, runs these
    /// commands, so that the emulator has their code translated, and stands still. Then it can be claimed at a socket
    /// below this directory, until it has been idle for too long.
    Spare { directory: PathBuf, environment: String, warm_up: Vec<String>, idle_max: Duration },
}

/// How a VM comes to life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartPolicy {
    /// Restored from a template in this directory; the template is made where it is missing, and
    /// warmed by running these commands in it.
    Restore { templates: PathBuf, warm_up: Vec<String> },
    /// Booted, whatever templates there are.
    ColdBoot,
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The host's hardware virtualisation.
    Kvm,
    /// QEMU's software emulation.
    Tcg,
}

impl Accelerator {
    /// As in payloads and on QEMU's command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What keeps a QEMU that its guest took over away from the host, beside Landlock where the kernel has
/// it, resource limits, and QEMU's own system call filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    pub identity: QemuIdentity,
    pub namespaces: Namespaces,
}

/// Who QEMU is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QemuIdentity {
    /// A user who owns nothing.
    Nobody,
    /// The caller, but in a user namespace in which it owns nothing.
    UserNamespace,
    /// The caller.
    Caller,
}

/// Which namespaces are QEMU's own, and empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespaces {
    /// File tree, processes, network, IPC and host name.
    All,
    /// Network, IPC and host name.
    WithoutFileTree,
    None,
}

/// A step of a VM's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaunchPhase {
    /// Another process makes the template that this VM needs.
    WaitingForTemplate,
    /// A machine boots, to be frozen as a template.
    BootingTemplate,
    /// Commands run in it, so that what they need is in its memory.
    WarmingTemplate,
    /// Its state is being written to disk.
    FreezingTemplate,
    /// The VM is being restored from its template.
    Restoring,
    /// The VM boots by itself.
    Booting,
    /// The agent answered and takes its identity.
    Configuring,
    /// Commands run in a spare, so that their code is translated.
    WarmingSpare,
    /// A spare goes on, as the VM of whoever claimed it.
    ResumingSpare,
}

/// How a VM's start went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchReport {
    pub start: StartKind,
    /// Time from the launch message to each step's end, in order.
    pub steps: Vec<LaunchStep>,
    pub boot: BootReport,
    /// How often the boot was tried; more than once where a first one never answered.
    pub boot_attempts: u32,
    /// The ports that the VM publishes, each with the host's port that it did get.
    pub published: Vec<PublishedPort>,
}

/// How a VM did come to life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartKind {
    Restored,
    ColdBoot,
    /// It was to be restored, but that failed, and so it was booted.
    ColdBootInstead {
        reason: Failure,
    },
    /// It was restored ahead, and claimed.
    Spare,
}

/// One timed step of a VM's start, seen from the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchStep {
    pub name: String,
    pub since_launch: Duration,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// The VM's own number for the run, by which what it wrote is found later, if it is kept.
    pub number: RunId,
    pub status: ExitStatus,
    /// From start to end, on the supervisor's clock.
    pub duration: Duration,
    pub reason: EndReason,
    /// The guest's kernel killed some process of this run because memory ran out.
    pub out_of_memory: bool,
    /// What the VM's network refused in the meantime.
    pub refusals: Refusals,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// Its process ended by itself.
    Finished,
    /// Its time-out was over, and every process it started was killed.
    TimedOut,
    /// Its client asked for the end, and every process it started was killed.
    Cancelled,
}
