//! [`Pyro`], the one value a surface holds.

use pyro_environments::{EnvironmentName, InstalledEnvironment, Store};
use pyro_supervisor::client::Departures;

use crate::config::Config;
use crate::doctor::{self, DoctorReport};
use crate::environments::{
    self, EnvironmentEntry, EnvironmentList, PruneReport, PulledEnvironment,
};
use crate::run::{self, RunOutcome, RunRequest};
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
}

impl Pyro {
    pub fn new(config: Config) -> Self {
        let store = Store::at(&config.cache_dir);
        Self { config, store, departures: Departures::default() }
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

    /// Starts a VM, and pulls its environment first if it is not there.
    ///
    /// Fails with `not_available` where the request asks for a network, with
    /// `environment_unavailable`, `no_space`, `host_unsupported` or `vm_start_failed` where no VM can be
    /// had, and with `vm_lost` where its supervisor is killed. Nothing is left of a VM whose start
    /// failed.
    pub async fn start_vm(
        &self,
        request: &VmRequest,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Vm, PyroError> {
        vm::check(request)?;
        let environment = self.ready_environment(request.environment, progress).await?;
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

    /// Waits until nothing is left of VMs whose calls were dropped. For a process that is about to end
    /// and wants to leave a clean host behind.
    pub async fn settle(&self) {
        self.departures.settle().await;
    }

    /// Checks whether this host can run VMs.
    pub async fn doctor(&self) -> DoctorReport {
        doctor::examine(&self.config, &self.store).await
    }

    /// The environment, pulled if it is not there.
    async fn ready_environment(
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
