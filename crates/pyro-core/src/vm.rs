//! A VM from the client's side: what is asked for, which files and numbers its supervisor gets, and
//! the commands it takes.

use pyro_environments::{EnvironmentLease, EnvironmentName, InstalledEnvironment, Store};
use pyro_protocol::client::{Accelerator, LaunchSpec, Lifetime, StartKind};
use pyro_protocol::network::AuthoredPolicy;
use pyro_supervisor::client::{ClientError, Departures, Supervisor};
use serde::Serialize;

use crate::config::{Config, INTERNAL_SUPERVISE};
use crate::exec::{self, ExecOutcome, ExecRequest, ExecutionMode, Place};
use crate::limits::{MemoryMib, TimeToLive, VcpuCount};
use crate::network::{CheckedNetwork, Network};
use crate::pyro::Progress;
use crate::streams::Streams;
use crate::{ErrorKind, PyroError, accelerator, confinement, environments, guest_kernel, spares};

/// A VM to be started.
#[derive(Debug, Clone)]
pub struct VmRequest {
    pub environment: EnvironmentName,
    pub vcpu_count: VcpuCount,
    pub memory: MemoryMib,
    pub time_to_live: TimeToLive,
    pub network: Network,
}

/// A VM that takes commands, one after the other, for as long as this value and its time to live
/// last. When it is dropped the VM goes as well, a few milliseconds later: see
/// [`Pyro::settle`](crate::Pyro::settle).
#[derive(Debug)]
pub struct Vm {
    id: String,
    environment: EnvironmentName,
    accelerator: Accelerator,
    start: StartKind,
    /// Of its network, if it has one.
    policies: Vec<AuthoredPolicy>,
    supervisor: Supervisor,
    line: Line,
}

/// How a VM came to life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VmStart {
    /// From its template.
    Restored,
    Booted,
    /// Restored ahead, and claimed.
    Spare,
}

/// Whose messages come from the supervisor next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Free,
    /// Those of a command that runs, or that was given up before its end.
    Taken,
}

impl Vm {
    /// 12 lower-case hex digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    pub fn start(&self) -> VmStart {
        match self.start {
            StartKind::Restored => VmStart::Restored,
            StartKind::Spare => VmStart::Spare,
            StartKind::ColdBoot | StartKind::ColdBootInstead { .. } => VmStart::Booted,
        }
    }

    /// Why it was booted, where it was to be restored.
    pub fn restore_failure(&self) -> Option<&PyroError> {
        match &self.start {
            StartKind::ColdBootInstead { reason } => Some(reason),
            StartKind::Restored | StartKind::ColdBoot | StartKind::Spare => None,
        }
    }

    /// Executes a command and waits for its end. What earlier commands wrote is still there, and what
    /// they left in the background still runs.
    ///
    /// A command that fails or runs out of time is an outcome. Fails with `vm_lost` or `vm_expired`
    /// where the VM is gone, and with what kept `streams` from taking the output. After a failure, and
    /// after a call whose future was dropped, the VM takes no further command and fails with
    /// `vm_lost`: what is left of the old command would be taken for the next one's.
    pub async fn exec(
        &mut self,
        request: ExecRequest,
        streams: Streams<'_>,
    ) -> Result<ExecOutcome, PyroError> {
        if self.line == Line::Taken {
            return Err(PyroError::new(
                ErrorKind::VmLost,
                "this VM takes no command any more, because an earlier one was given up",
            ));
        }
        self.line = Line::Taken;
        let place = Place {
            vm_id: &self.id,
            environment: self.environment.as_str(),
            environment_version: self.environment.definition().version,
            mode: ExecutionMode::Guest,
            accelerator: Some(self.accelerator),
            policies: &self.policies,
        };
        let supervisor = &mut self.supervisor;
        let (outcome, _) = exec::carry_out(
            |command, timeout| supervisor.run(command, timeout),
            request,
            streams,
            &place,
        )
        .await?;
        self.line = Line::Free;
        Ok(outcome)
    }

    /// Ends the VM and waits until nothing of it is left. Fails with `internal` where the host does not
    /// let it be waited for.
    pub async fn end(self) -> Result<(), PyroError> {
        self.supervisor.end().await.map_err(|error| {
            PyroError::from_error(ErrorKind::Internal, &error).context("cannot end the VM")
        })
    }
}

/// Everything a supervisor must know for a VM from an installed environment, and with the request's network, which was
/// checked before.
pub(crate) async fn specify(
    config: &Config,
    environment: &InstalledEnvironment,
    request: &VmRequest,
    network: CheckedNetwork,
) -> Result<LaunchSpec, PyroError> {
    let accelerator = accelerator::choose(config).await?;
    let qemu = config.tool(pyro_qemu::executable::PROGRAM, QEMU_PACKAGE)?;
    let confinement = confinement::choose(config, &qemu, accelerator).await?;
    let scratch_directory = config.vms_directory();
    fs_err::create_dir_all(&scratch_directory).map_err(|error| {
        PyroError::from_error(ErrorKind::VmStartFailed, &error)
            .context("cannot make the directory for VMs")
            .hint("set `PYRO_STATE_DIR` to a directory that is writable")
    })?;
    let kernel = guest_kernel::choose(
        config.guest_kernel,
        accelerator,
        request.vcpu_count,
        &config.pyro,
        environment,
    )?;
    let (network, guest_files) = network.specify().await;
    Ok(LaunchSpec {
        vm_id: new_id()?,
        vcpu_count: request.vcpu_count.get(),
        memory_mib: request.memory.get(),
        time_to_live: request.time_to_live.get(),
        lifetime: Lifetime::Client,
        accelerator,
        confinement,
        qemu,
        mke2fs: config.tool("mke2fs", "e2fsprogs")?,
        start: config.start_policy(environment),
        environment_digest: environments::digest(environment, &kernel.digest),
        kernel_image: kernel.image,
        kernel_modules: kernel.modules,
        rootfs_image: environment.rootfs_image.clone(),
        network,
        guest_files,
        scratch_directory,
    })
}

/// Starts a VM from an installed environment: claims a spare, or has one restored or booted.
pub(crate) async fn launch(
    config: &Config,
    store: &Store,
    environment: &InstalledEnvironment,
    (request, network): (&VmRequest, CheckedNetwork),
    progress: &(dyn Fn(Progress) + Send + Sync),
    departures: &Departures,
) -> Result<Vm, PyroError> {
    let spec = specify(config, environment, request, network).await?;
    let (id, accelerator) = (spec.vm_id.clone(), spec.accelerator);
    let policies = spec.network.as_ref().map(|network| network.policies.clone());
    let claimed = spares::claim(config, &spec, departures).await;
    let claimed = claimed.unwrap_or_else(|reason| {
        progress(Progress::SpareFailed { reason });
        None
    });
    let (supervisor, report) = if let Some(claimed) = claimed {
        claimed
    } else {
        // Until the supervisor has opened the files.
        let lease = lease(store, environment)?;
        let executable = config.executable(INTERNAL_SUPERVISE);
        let mut supervisor =
            Supervisor::start(&executable, departures).await.map_err(client_failure)?;
        let report = supervisor
            .launch(spec, |phase| progress(Progress::Launch(phase)))
            .await
            .map_err(client_failure)?;
        drop(lease);
        (supervisor, report)
    };
    let start = report.start.clone();
    progress(Progress::VmReady { vm_id: id.clone(), accelerator, report });
    Ok(Vm {
        id,
        environment: environment.name,
        accelerator,
        start,
        policies: policies.unwrap_or_default(),
        supervisor,
        line: Line::Free,
    })
}

/// The Debian package with the one QEMU program used.
pub(crate) const QEMU_PACKAGE: &str = "qemu-system-x86";

/// 12 lower-case hex digits.
pub(crate) fn new_id() -> Result<String, PyroError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes[2..]).map_err(|error| {
        PyroError::from_error(ErrorKind::Internal, &error).context("cannot name the VM")
    })?;
    Ok(format!("{:012x}", u64::from_be_bytes(bytes)))
}

/// An error of the supervisor's client, as surfaces see it.
pub(crate) fn client_failure(error: ClientError) -> PyroError {
    match error {
        ClientError::Reported(failure) => failure,
        ClientError::CannotStart { .. } => PyroError::from_error(ErrorKind::VmStartFailed, &error),
        ClientError::NoConversation { .. } | ClientError::Unreachable { .. } => {
            PyroError::from_error(ErrorKind::VmLost, &error).hint(
                "the VM's supervisor was killed, for instance because the host ran out of memory",
            )
        }
        ClientError::NoAnswer { .. } => PyroError::from_error(ErrorKind::VmLost, &error)
            .hint("try again; if that does not help, end the supervisor: its VM ends with it"),
        ClientError::UnexpectedMessage => PyroError::from_error(ErrorKind::Internal, &error),
    }
}

/// Keeps an environment's files where they are for as long as the value lives.
pub(crate) fn lease(
    store: &Store,
    environment: &InstalledEnvironment,
) -> Result<EnvironmentLease, PyroError> {
    store.lease(environment).map_err(|error| {
        PyroError::from_error(ErrorKind::EnvironmentUnavailable, &error)
            .context(format!("cannot use `{}`", environment.name))
            .hint("try again: another process deleted or replaced it at this moment")
    })
}
