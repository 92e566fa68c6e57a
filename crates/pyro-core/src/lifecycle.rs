//! VMs with a life of their own: made by one process, used by any of the same user, until somebody deletes
//! them or their time is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pyro_environments::InstalledEnvironment;
use pyro_protocol::client::{Accelerator, Lifetime};
use pyro_protocol::network::NetworkSpec;
use pyro_protocol::record::{VmRecord, VmState};
use pyro_supervisor::client::ClientError;
use pyro_supervisor::remote::{self, Presence, Remote};
use serde::Serialize;

use crate::config::INTERNAL_SUPERVISE;
use crate::exec::{self, ExecOutcome, ExecRequest, ExecutionMode, Place};
use crate::limits::{Metadata, VmId};
use crate::network::CheckedNetwork;
use crate::network::report::{self, NetworkInfo};
use crate::pyro::{Progress, Pyro};
use crate::run::{Cleanup, HostCompat};
use crate::streams::Streams;
use crate::vm::{self, VmRequest, client_failure};
use crate::vms::{self, VmsDirectory};
use crate::{ErrorKind, PyroError, spares};

/// Within this a process that was killed has ended.
const DYING_DEADLINE: Duration = Duration::from_secs(10);

/// How often its end is looked for.
const DYING_PAUSE: Duration = Duration::from_millis(10);

/// A VM to be made.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    pub vm: VmRequest,
    pub metadata: Metadata,
    /// Only noted: such a VM never runs anything on the host.
    pub host_compat: HostCompat,
}

/// A VM, and where it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VmInfo {
    pub vm_id: String,
    pub environment: String,
    pub environment_version: String,
    pub vcpu_count: u8,
    pub mem_mib: u32,
    pub ttl_seconds: u64,
    /// Seconds since the epoch.
    pub created_at: f64,
    pub expires_at: f64,
    pub state: VmState,
    pub network_enabled: bool,
    pub allow_host_compat: bool,
    pub guest_ip: Option<String>,
    pub tap_name: Option<String>,
    pub execution_mode: ExecutionMode,
    pub metadata: BTreeMap<String, String>,
    pub accelerator: Option<Accelerator>,
    /// [`Pyro::network_info_vm`](crate::Pyro::network_info_vm) shows it.
    #[serde(skip)]
    pub network: Option<NetworkSpec>,
}

/// Every VM of this user.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VmList {
    pub vms: Vec<VmInfo>,
}

/// What became of a command in a VM that goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmExecOutcome {
    #[serde(flatten)]
    pub exec: ExecOutcome,
    /// By which all that it wrote is found as long as the VM lives, see
    /// [`Pyro::list_runs`](crate::Pyro::list_runs).
    pub run_id: u32,
    pub cleanup: Cleanup,
}

/// VMs whose time was over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReapReport {
    pub deleted_vm_ids: Vec<String>,
    pub count: usize,
}

impl From<VmRecord> for VmInfo {
    fn from(record: VmRecord) -> Self {
        Self {
            vm_id: record.vm_id,
            environment: record.environment,
            environment_version: record.environment_version,
            vcpu_count: record.vcpu_count,
            mem_mib: record.memory_mib,
            ttl_seconds: record.time_to_live.as_secs(),
            created_at: record.created_at.as_secs_f64(),
            expires_at: (record.created_at + record.time_to_live).as_secs_f64(),
            state: record.state,
            network_enabled: record.network.is_some(),
            allow_host_compat: record.allow_host_compat,
            guest_ip: record.network.as_ref().map(|_| report::guest_ip().to_string()),
            tap_name: None,
            execution_mode: match record.state {
                VmState::Created => ExecutionMode::Pending,
                VmState::Started | VmState::Stopped => ExecutionMode::Guest,
            },
            metadata: record.metadata,
            accelerator: Some(record.accelerator),
            network: record.network,
        }
    }
}

impl VmInfo {
    /// Until its time is over.
    pub fn time_left(&self) -> Duration {
        let expires_at = Duration::try_from_secs_f64(self.expires_at).unwrap_or_default();
        expires_at.saturating_sub(vms::since_epoch())
    }
}

/// Makes a VM. Its machine does not run yet.
pub(crate) async fn create(
    pyro: &Pyro,
    request: CreateRequest,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<VmInfo, PyroError> {
    let network = CheckedNetwork::check(pyro.config(), &request.vm.network)?;
    let vms = directory(pyro);
    // Before anything is pulled for a VM that cannot be.
    if let Some(locked) = vms.lock().await? {
        locked.check_number(pyro.config().active_vms_max)?;
    }
    let environment = pyro.ready_environment(request.vm.environment, progress).await?;
    let created = create_from(pyro, &vms, &environment, (request, network), progress).await;
    if created.is_err() {
        // What its supervisor could not remove, if it came to that.
        pyro.departures().settle().await;
        vms.census().await.ok();
    }
    created
}

async fn create_from(
    pyro: &Pyro,
    vms: &VmsDirectory,
    environment: &InstalledEnvironment,
    (request, network): (CreateRequest, CheckedNetwork),
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<VmInfo, PyroError> {
    let config = pyro.config();
    let mut spec = vm::specify(config, environment, &request.vm, network).await?;
    let id = VmId::new(&spec.vm_id)?;
    let lease = pyro.lease(environment)?;
    let Some(locked) = vms.lock().await? else {
        return Err(PyroError::new(ErrorKind::Internal, "somebody removed the directory of VMs"));
    };
    let room = locked.make_room(&id, config.active_vms_max)?;
    drop(locked);
    let record = VmRecord {
        vm_id: spec.vm_id.clone(),
        environment: request.vm.environment.as_str().to_owned(),
        environment_version: request.vm.environment.definition().version.to_owned(),
        vcpu_count: spec.vcpu_count,
        memory_mib: spec.memory_mib,
        created_at: vms::since_epoch(),
        time_to_live: spec.time_to_live,
        state: VmState::Created,
        allow_host_compat: request.host_compat == HostCompat::Allowed,
        metadata: request.metadata.into_entries(),
        accelerator: spec.accelerator,
        network: spec.network.clone(),
    };
    spec.lifetime = Lifetime::Own {
        directory: room.directory,
        record: Box::new(record.clone()),
        needed: vec![environment.install_dir.clone(), environment.kernel.install_dir.clone()],
    };
    let executable = config.executable(INTERNAL_SUPERVISE);
    let progress = |phase| progress(Progress::Launch(phase));
    remote::create(&executable, room.lock, spec, pyro.departures(), progress)
        .await
        .map_err(client_failure)?;
    drop(lease);
    Ok(record.into())
}

/// Starts a VM's machine.
pub(crate) async fn start(
    pyro: &Pyro,
    id: &VmId,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<VmInfo, PyroError> {
    let (record, mut remote) = reach(pyro, id).await?;
    let report = remote.start(|phase| progress(Progress::Launch(phase))).await;
    let report = report.map_err(client_failure)?;
    let accelerator = record.accelerator;
    progress(Progress::VmReady { vm_id: record.vm_id, accelerator, report });
    status(pyro, id)
}

/// Runs a command in a VM, which goes on afterwards.
pub(crate) async fn exec(
    pyro: &Pyro,
    id: &VmId,
    request: ExecRequest,
    streams: Streams<'_>,
) -> Result<VmExecOutcome, PyroError> {
    let (record, mut remote) = reach(pyro, id).await?;
    let place = Place {
        vm_id: id.as_str(),
        environment: &record.environment,
        environment_version: &record.environment_version,
        mode: ExecutionMode::Guest,
        accelerator: Some(record.accelerator),
        policies: record.network.as_ref().map_or(&[], |network| &network.policies),
    };
    let (exec, run) =
        exec::carry_out(|command, timeout| remote.run(command, timeout), request, streams, &place)
            .await?;
    let cleanup = Cleanup { vm_id: record.vm_id, deleted: false, reason: "vm_kept" };
    Ok(VmExecOutcome { exec, run_id: run.0, cleanup })
}

/// Ends a VM's machine, and keeps its disk.
pub(crate) async fn stop(pyro: &Pyro, id: &VmId) -> Result<VmInfo, PyroError> {
    let (_, mut remote) = reach(pyro, id).await?;
    remote.stop().await.map_err(client_failure)?;
    status(pyro, id)
}

/// Ends a VM for good. One whose supervisor is killed meanwhile is deleted, too.
pub(crate) async fn delete(pyro: &Pyro, id: &VmId) -> Result<Cleanup, PyroError> {
    let deleted =
        Cleanup { vm_id: id.as_str().to_owned(), deleted: true, reason: "explicit_delete" };
    let vms = directory(pyro);
    if remove_remains(&vms, id)? {
        return Ok(deleted);
    }
    vms.find(id)?;
    let deletion = async { Remote::connect(&vms.directory(id)).await?.delete().await };
    let Err(error) = deletion.await else { return Ok(deleted) };
    let dies_until = Instant::now() + DYING_DEADLINE;
    while is_lost(&error) && Instant::now() < dies_until {
        if remove_remains(&vms, id)? {
            return Ok(deleted);
        }
        match vms.find(id) {
            // Who was killed holds its lock until its memory has been given back.
            Ok(_) => tokio::time::sleep(DYING_PAUSE).await,
            Err(error) if error.kind == ErrorKind::UnknownVm => return Ok(deleted),
            Err(error) => return Err(error),
        }
    }
    Err(client_failure(error))
}

/// Removes what a supervisor has left that was killed before its VM expired; false where there is no such thing.
fn remove_remains(vms: &VmsDirectory, id: &VmId) -> Result<bool, PyroError> {
    let Presence::Dead(remains) = vms.look(id)? else { return Ok(false) };
    if remains.record.as_ref().is_none_or(|record| vms::is_expired(record)) {
        return Ok(false);
    }
    remains.remove().map_err(|error| {
        PyroError::from_error(ErrorKind::Internal, &error).context("cannot delete the VM")
    })?;
    Ok(true)
}

pub(crate) fn status(pyro: &Pyro, id: &VmId) -> Result<VmInfo, PyroError> {
    directory(pyro).find(id).map(VmInfo::from)
}

pub(crate) async fn list(pyro: &Pyro) -> Result<VmList, PyroError> {
    spares::remove_abandoned(pyro.config());
    let census = directory(pyro).census().await?;
    Ok(VmList { vms: census.living.into_iter().map(VmInfo::from).collect() })
}

/// Supervisors end their VMs in time. This removes what is left of those that were killed, and ends what a
/// stopped clock of the host has kept too long.
pub(crate) async fn reap(pyro: &Pyro) -> Result<ReapReport, PyroError> {
    let census = directory(pyro).census().await?;
    let removed = census.removed.iter().filter(|record| vms::is_expired(record));
    let mut deleted_vm_ids: Vec<_> = removed.map(|record| record.vm_id.clone()).collect();
    for record in census.living.iter().filter(|record| vms::is_expired(record)) {
        let id = VmId::new(&record.vm_id)?;
        match delete(pyro, &id).await {
            Ok(deleted) => deleted_vm_ids.push(deleted.vm_id),
            // Its supervisor was faster.
            Err(error) if error.kind == ErrorKind::UnknownVm => {}
            Err(error) if error.kind == ErrorKind::VmExpired => {
                deleted_vm_ids.push(record.vm_id.clone());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(ReapReport { count: deleted_vm_ids.len(), deleted_vm_ids })
}

pub(crate) fn network_info(pyro: &Pyro, id: &VmId) -> Result<NetworkInfo, PyroError> {
    let record = directory(pyro).find(id)?;
    Ok(report::describe(record.vm_id, record.network.as_ref()))
}

pub(crate) fn directory(pyro: &Pyro) -> VmsDirectory {
    VmsDirectory::at(pyro.config().vms_directory())
}

/// The record of a VM that lives, and a connection to its supervisor.
async fn reach(pyro: &Pyro, id: &VmId) -> Result<(VmRecord, Remote), PyroError> {
    let vms = directory(pyro);
    let record = vms.find(id)?;
    match Remote::connect(&vms.directory(id)).await {
        Ok(remote) => Ok((record, remote)),
        Err(error) => {
            if is_lost(&error) {
                // It may have ended at this moment, which says more.
                vms.find(id)?;
            }
            Err(client_failure(error))
        }
    }
}

/// Whether nobody is at the other end any more.
fn is_lost(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { .. } | ClientError::NoConversation { .. })
}
