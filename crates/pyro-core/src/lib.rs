//! The facade every surface calls: parse input into types that cannot be wrong, find or pull the
//! environment, have a supervisor start a VM, run the command, and say how it went.
//!
//! Surfaces hold no policy. Whatever decides a default, a limit or an error is here, so that the same
//! input gives the same object on all of them.

mod config;

mod limits;

mod command;

mod pyro;

mod environments;

mod accelerator;

mod confinement;

mod guest_kernel;

mod probe;

mod run;

mod exec;

mod vm;

mod network;

mod vms;

mod spares;

mod keeper;

mod lifecycle;

mod logs;

mod files;

mod step;

mod streams;

mod capture;

mod host_compat;

mod leftovers;

mod packages;

mod checks;

mod repair;

mod doctor;

pub use pyro_environments::{EnvironmentName, PruneScope, PullMode, PullProgress};
pub use pyro_protocol::client::{
    Accelerator, LaunchPhase, LaunchReport, Namespaces, QemuIdentity, StartKind,
};
pub use pyro_protocol::failure::{Failure as PyroError, FailureKind as ErrorKind};
pub use pyro_protocol::network::{
    AuthoredPolicy, EgressPolicy, EgressRule, NetworkSpec, PolicyAuthor, PublishedPort,
    RefusalReason, RefusedProtocol,
};
pub use pyro_protocol::record::VmState;
pub use pyro_protocol::run::TerminalSize;
pub use pyro_qemu::accelerator::KvmProbe;
pub use pyro_qemu::confinement::Controller;

pub use self::accelerator::probe_kvm;
pub use self::capture::{CAPTURE_BYTES_DEFAULT, CaptureLimit};
pub use self::checks::{Check, CheckStatus};
pub use self::command::{CommandText, GuestPath, Variables, WorkingDirectory};
pub use self::config::{
    AcceleratorChoice, Config, ConfinementChoice, EndpointSettings, GuestKernelChoice,
    INTERNAL_KEEP_SPARES, INTERNAL_PROBE_CONFINEMENT, INTERNAL_PROBE_KVM, INTERNAL_SUPERVISE,
    UserDirectories, terminal_is_dumb,
};
pub use self::confinement::{ConfinementReport, probe_confinement};
pub use self::doctor::{Capabilities, DoctorReport, RuntimeReport, SparesReport};
pub use self::environments::{
    EnvironmentEntry, EnvironmentList, PruneReport, PulledEnvironment, parse_environment,
};
pub use self::exec::{ExecOutcome, ExecRequest, ExecutionMode};
pub use self::files::FileRequest;
pub use self::guest_kernel::{GuestKernelKind, GuestKernelReport};
pub use self::keeper::{KeepRequest, KeeperInfo, StartedKeeper, StoppedKeepers, WarmStatus};
pub use self::leftovers::{Leftover, LeftoverKind};
pub use self::lifecycle::{CreateRequest, ReapReport, VmExecOutcome, VmInfo, VmList};
pub use self::limits::{
    ActiveVmsMax, FileBytesMax, MemoryMib, Metadata, SpareCount, SpareTime, TimeToLive, Timeout,
    VcpuCount, VmId,
};
pub use self::logs::{LogPart, LogRequest, OutputStream, RunInfo, RunList, RunLog, RunState};
pub use self::network::options::{NetworkOptions, PolicyOptions};
pub use self::network::pins::{BeyondPin, NetworkPin, PinOptions};
pub use self::network::refusals::{AllowWith, NetworkRefusal};
pub use self::network::report::{
    NetworkDetails, NetworkInfo, NetworkingReport, NoNetwork, PinInfo, PolicyInfo,
    PublishedPortInfo,
};
pub use self::network::{Network, NetworkRequest, NetworkSettings};
pub use self::pyro::{Progress, Pyro};
pub use self::repair::Fix;
pub use self::run::{Cleanup, HostCompat, RunOutcome, RunRequest};
pub use self::spares::{PoolEvent, SpareInfo, SpareKind, SpareNetwork, SparePool};
pub use self::step::{Measure, Step};
pub use self::streams::Streams;
pub use self::vm::{Vm, VmRequest, VmStart};
pub use pyro_supervisor::server::serve_inherited_socket;
