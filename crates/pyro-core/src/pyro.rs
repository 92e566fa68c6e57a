//! [`Pyro`], the one value a surface holds.

use std::convert::Infallible;
use std::io::Read;

use pyro_environments::{EnvironmentLease, EnvironmentName, InstalledEnvironment, Store};
use pyro_supervisor::client::Departures;

use crate::config::Config;
use crate::doctor::{self, DoctorReport};
use crate::environments::{
    self, EnvironmentEntry, EnvironmentList, PruneReport, PulledEnvironment,
};
use crate::exec::ExecRequest;
use crate::files::{self, FileRequest};
use crate::keeper::{self, KeepRequest, StartedKeeper, StoppedKeepers, WarmStatus};
use crate::lifecycle::{self, CreateRequest, ReapReport, VmExecOutcome, VmInfo, VmList};
use crate::limits::{FileBytesMax, SpareCount, SpareTime, VmId};
use crate::logs::{self, LogPart, LogRequest, OutputStream, RunInfo, RunList, RunLog};
use crate::network::CheckedNetwork;
use crate::network::report::NetworkInfo;
use crate::repair::{self, Repaired};
use crate::run::{self, Cleanup, RunOutcome, RunRequest};
use crate::spares::{self, SpareKind, SparePool};
use crate::streams::Streams;
use crate::vm::{self, Vm, VmRequest};
use crate::{
    Accelerator, LaunchPhase, LaunchReport, PruneScope, PullMode, PullProgress, PyroError,
};

/// What long work is doing, for whoever watches.
#[derive(Debug, Clone)]
pub enum Progress {
    Pull(PullProgress),
    Launch(LaunchPhase),
    /// A spare that was there could not be had after all, and a VM is made instead.
    SpareFailed {
        reason: PyroError,
    },
    /// The VM takes commands.
    VmReady {
        vm_id: String,
        accelerator: Accelerator,
        report: LaunchReport,
    },
    /// No VM can be had, and the command goes to the host itself, as the caller allowed.
    HostCompat {
        reason: PyroError,
    },
}

/// Everything pyro does. Cheap to make: directories and processes come when they are needed.
#[derive(Debug, Clone)]
pub struct Pyro {
    config: Config,
    store: Store,
    departures: Departures,
    pool: Option<SparePool>,
}

impl Pyro {
    pub fn new(config: Config) -> Self {
        let store = Store::at(&config.cache_dir);
        Self { config, store, departures: Departures::default(), pool: None }
    }

    /// The same, with other settings.
    #[must_use]
    pub fn with_config(self, config: Config) -> Self {
        Self { pool: self.pool, ..Self::new(config) }
    }

    /// The same, which has that many spares of what it was asked for last, as long as somebody waits for
    /// [`keep_spares`](Self::keep_spares).
    #[must_use]
    pub fn with_spares(self, count: SpareCount) -> Self {
        Self { pool: Some(SparePool::new(count)), ..self }
    }

    /// Keeps its spares, each until it was idle for 30 minutes. Never ends by itself. When the future is dropped they
    /// go, a few milliseconds later: see [`settle`](Self::settle).
    pub async fn keep_spares(&self) -> Infallible {
        match &self.pool {
            Some(pool) => pool.keep(self, SpareTime::DEFAULT.get(), &|_| {}, &|_| {}).await,
            None => std::future::pending().await,
        }
    }

    /// Has spares for VMs like this one, if it keeps any.
    pub(crate) fn want_spares(&self, request: &VmRequest) {
        if let Some(pool) = &self.pool {
            pool.want(SpareKind::of(request));
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The catalog, and what of it is installed.
    pub fn list_environments(&self) -> Result<EnvironmentList, PyroError> {
        environments::list(&self.store)
    }

    /// One environment.
    pub fn inspect_environment(
        &self,
        name: EnvironmentName,
    ) -> Result<EnvironmentEntry, PyroError> {
        environments::inspect(&self.store, name)
    }

    /// Makes an environment ready; repairs a damaged one. Dropping the future ends the work, and
    /// nothing half-done is ever visible.
    pub async fn pull_environment(
        &self,
        name: EnvironmentName,
        mode: PullMode,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<PulledEnvironment, PyroError> {
        let environment = self.pull(name, mode, progress).await?;
        Ok(environments::pulled(&self.store, &environment))
    }

    /// Deletes environments that nobody needs, or all of them, and the templates made of them.
    pub fn prune_environments(&self, scope: PruneScope) -> Result<PruneReport, PyroError> {
        environments::prune(&self.config, &self.store, scope)
    }

    /// Starts a VM that ends with this process, and pulls its environment first if it is not there.
    ///
    /// Fails with `invalid_input` where the request asks for a network that cannot be had, with
    /// `environment_unavailable`, `no_space`, `host_unsupported` or `vm_start_failed` where no VM can be
    /// had, and with `vm_lost` where its supervisor is killed. Nothing is left of a VM whose start
    /// failed.
    pub async fn launch_vm(
        &self,
        request: &VmRequest,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Vm, PyroError> {
        let network = CheckedNetwork::check(&self.config, &request.network)?;
        let environment = self.ready_environment(request.environment, progress).await?;
        let request = (request, network);
        vm::launch(&self.config, &self.store, &environment, request, progress, &self.departures)
            .await
    }

    /// Runs a command in a VM of its own, which is gone when this returns. When the future is dropped
    /// it goes as well, a few milliseconds later: see [`settle`](Self::settle).
    pub async fn run_in_vm(
        &self,
        request: RunRequest,
        streams: Streams<'_>,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<RunOutcome, PyroError> {
        run::run(self, request, streams, progress).await
    }

    /// Makes a VM with a life of its own, and pulls its environment first if it is not there. Its machine
    /// does not run yet.
    ///
    /// Fails as [`launch_vm`](Self::launch_vm) does, and with `too_many_vms`. When the future is dropped
    /// before its end nothing is left, after [`settle`](Self::settle).
    pub async fn create_vm(
        &self,
        request: CreateRequest,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<VmInfo, PyroError> {
        lifecycle::create(self, request, progress).await
    }

    /// Starts the machine of a VM that was created, or stopped. It goes on if the future is dropped.
    ///
    /// This and the calls below fail with `unknown_vm` where there is no such VM, with `vm_expired` where
    /// its time is known to be over, with `wrong_vm_state` where it cannot be done in the VM's state, and
    /// with `vm_lost` where its supervisor is killed or does not answer.
    pub async fn start_vm(
        &self,
        id: &VmId,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<VmInfo, PyroError> {
        lifecycle::start(self, id, progress).await
    }

    /// Executes a command in a VM that was started, and waits for its end. The VM goes on. When the
    /// future is dropped the command ends.
    pub async fn exec_vm(
        &self,
        id: &VmId,
        request: ExecRequest,
        streams: Streams<'_>,
    ) -> Result<VmExecOutcome, PyroError> {
        lifecycle::exec(self, id, request, streams).await
    }

    /// The commands of a VM, with what became of them, as far as they are kept: the last 200, and of what
    /// they wrote 256 MiB, at most 64 MiB of each stream.
    pub fn list_runs(&self, id: &VmId) -> Result<RunList, PyroError> {
        logs::list(self, id)
    }

    /// One command of a VM. Fails with `invalid_input` where nothing of such a run is kept.
    pub fn inspect_run(&self, id: &VmId, run_id: u32) -> Result<RunInfo, PyroError> {
        logs::run(self, id, run_id)
    }

    /// A part of what a command of a VM wrote, as text. Fails with `invalid_input` where nothing of such a
    /// run is kept, and where `bytes_max` is not 1 to 1048576.
    pub fn read_log(&self, id: &VmId, request: &LogRequest) -> Result<LogPart, PyroError> {
        logs::read(self, id, request)
    }

    /// All that is kept of a command of a VM, as text.
    pub fn run_log(&self, id: &VmId, run_id: u32) -> Result<RunLog, PyroError> {
        logs::whole(self, id, run_id)
    }

    /// All that is kept of one stream of a command of a VM, as it was written. It can be read after the VM
    /// is gone.
    pub fn open_log(
        &self,
        id: &VmId,
        run_id: u32,
        stream: OutputStream,
    ) -> Result<impl Read + use<>, PyroError> {
        logs::run(self, id, run_id)?;
        logs::output(self, id, run_id, stream, 0)
    }

    /// The content of a file of a VM that was started. Fails with `invalid_input` where it cannot be read, or is
    /// larger than `bytes_max`.
    pub async fn read_file(
        &self,
        id: &VmId,
        request: &FileRequest,
        bytes_max: FileBytesMax,
    ) -> Result<Vec<u8>, PyroError> {
        files::read(self, id, request, bytes_max).await
    }

    /// Makes or replaces a file of a VM that was started, and the directories above it. Fails with
    /// `invalid_input` where it cannot be written; what of it was written by then is there.
    pub async fn write_file(
        &self,
        id: &VmId,
        request: &FileRequest,
        content: Vec<u8>,
    ) -> Result<(), PyroError> {
        files::write(self, id, request, content).await
    }

    /// Ends a VM's machine, and keeps what was written. In any state.
    pub async fn stop_vm(&self, id: &VmId) -> Result<VmInfo, PyroError> {
        lifecycle::stop(self, id).await
    }

    /// Ends a VM for good. In any state.
    pub async fn delete_vm(&self, id: &VmId) -> Result<Cleanup, PyroError> {
        lifecycle::delete(self, id).await
    }

    /// A VM, and where it stands.
    pub fn status_vm(&self, id: &VmId) -> Result<VmInfo, PyroError> {
        lifecycle::status(self, id)
    }

    /// Every VM of this user, oldest first. What killed supervisors left is removed.
    pub async fn list_vms(&self) -> Result<VmList, PyroError> {
        lifecycle::list(self).await
    }

    /// Deletes VMs whose time is over, where their supervisors could not.
    pub async fn reap_expired(&self) -> Result<ReapReport, PyroError> {
        lifecycle::reap(self).await
    }

    /// Starts a process that keeps spares for a while, and returns when they stand, and nothing is left of those who kept
    /// the same kind before. When the future is dropped before, all is as it was, a few milliseconds later. `step` hears
    /// what is being done.
    ///
    /// Fails as [`launch_vm`](Self::launch_vm) does.
    pub async fn start_keeper(
        &self,
        request: &KeepRequest,
        step: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<StartedKeeper, PyroError> {
        keeper::start(&self.config, request, step).await
    }

    /// Is the process that [`start_keeper`](Self::start_keeper) starts, whose socket is its standard input. Ends in
    /// order when `interrupted` does.
    pub async fn serve_keeper(&self, interrupted: impl Future<Output = i32>) {
        keeper::serve(self, interrupted).await;
    }

    /// The processes that keep spares, and all spares of this user. What killed ones left is removed.
    pub async fn warm_status(&self) -> WarmStatus {
        spares::remove_abandoned(&self.config);
        let keepers = keeper::list(&self.config).await;
        let spares = spares::list(&self.config).await;
        let private_bytes = spares.iter().map(|spare| spare.private_bytes).sum();
        WarmStatus { keepers, spares, private_bytes }
    }

    /// Ends every process that keeps spares, and waits until nothing of their spares is left.
    pub async fn stop_keepers(&self) -> Result<StoppedKeepers, PyroError> {
        keeper::stop(&self.config).await
    }

    /// What a VM's network is.
    pub fn network_info_vm(&self, id: &VmId) -> Result<NetworkInfo, PyroError> {
        lifecycle::network_info(self, id)
    }

    /// Waits until nothing is left of VMs whose calls were dropped. For a process that is about to end
    /// and wants to leave a clean host behind.
    pub async fn settle(&self) {
        if self.departures.settle().await > 0 {
            // What those could not remove that were interrupted early. Whoever looks next does it as well.
            lifecycle::directory(self).census().await.ok();
        }
    }

    /// Checks whether this host can run VMs.
    pub async fn doctor(&self) -> DoctorReport {
        doctor::examine(&self.config, &self.store, Repaired::default()).await
    }

    /// The same, after removing what killed processes have left and templates that nobody can use, and making the
    /// directories that are missing. Whatever lives is left alone.
    pub async fn repair(&self) -> DoctorReport {
        let repaired = repair::repair(&self.config, &self.store).await;
        doctor::examine(&self.config, &self.store, repaired).await
    }

    pub(crate) fn departures(&self) -> &Departures {
        &self.departures
    }

    /// Keeps an environment's files from being pruned for a moment.
    pub(crate) fn lease(
        &self,
        environment: &InstalledEnvironment,
    ) -> Result<EnvironmentLease, PyroError> {
        vm::lease(&self.store, environment)
    }

    /// The environment, pulled if it is not there.
    pub(crate) async fn ready_environment(
        &self,
        name: EnvironmentName,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<InstalledEnvironment, PyroError> {
        let installed =
            self.store.find(name).map_err(|error| environments::store_failure(&error))?;
        match installed {
            Some(environment) => Ok(environment),
            None => self.pull(name, PullMode::IfMissing, progress).await,
        }
    }

    async fn pull(
        &self,
        name: EnvironmentName,
        mode: PullMode,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<InstalledEnvironment, PyroError> {
        let progress = |step| progress(Progress::Pull(step));
        environments::pull(&self.config, &self.store, name, mode, &progress).await
    }
}
