//! Whether this host can run VMs, and if not, what is missing.

use std::path::PathBuf;

use pyro_environments::{CATALOG_VERSION, Store};
use pyro_protocol::client::Accelerator;
use pyro_qemu::accelerator::KvmProbe;
use serde::Serialize;

use crate::checks::{self, Check, CheckStatus};
use crate::config::Config;
use crate::confinement::{self, ConfinementReport};
use crate::environments::{self, EnvironmentEntry};
use crate::guest_kernel::{self, GuestKernelReport};
use crate::leftovers::{self, Leftover};
use crate::network::report::NetworkingReport;
use crate::repair::{Fix, Repaired};
use crate::{PyroError, accelerator, network, spares};

/// The state of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    pub platform: String,
    /// VMs can run here.
    pub runtime_ok: bool,
    /// What is wrong, each with its remedy.
    pub issues: Vec<String>,
    /// Everything that was looked at, in the order in which people read it.
    pub checks: Vec<Check>,
    /// What was put right before the host was looked at; nothing unless that was asked for.
    pub fixed: Vec<Fix>,
    /// What killed processes have left. It does no harm.
    pub leftovers: Vec<Leftover>,
    pub spares: SparesReport,
    pub kvm: KvmProbe,
    /// What keeps QEMU in; `None` where QEMU does not start, or not confined as required.
    pub confinement: Option<ConfinementReport>,
    /// Which kernel VMs boot; `None` where no accelerator can be had, or not the kernel that is asked for.
    pub guest_kernel: Option<GuestKernelReport>,
    pub networking: NetworkingReport,
    pub runtime: RuntimeReport,
}

/// Which spares there are, and what they cost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SparesReport {
    pub count: usize,
    /// What they have in the host's memory for themselves. Beside it they use nothing: they stand still.
    pub private_bytes: u64,
}

/// What VMs run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuntimeReport {
    pub version: &'static str,
    /// What VMs get on this host; `None` where none can run.
    pub accelerator: Option<Accelerator>,
    pub qemu: Option<PathBuf>,
    pub qemu_version: Option<String>,
    pub capabilities: Capabilities,
    pub catalog_version: &'static str,
    pub cache_dir: PathBuf,
    pub state_dir: PathBuf,
    pub environments: Vec<EnvironmentEntry>,
}

/// What VMs can do on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    pub supports_vm_boot: bool,
    pub supports_guest_exec: bool,
    pub supports_guest_network: bool,
    pub reason: Option<String>,
}

/// Looks at everything, after `repaired` was done.
pub(crate) async fn examine(config: &Config, store: &Store, repaired: Repaired) -> DoctorReport {
    let mut issues: Vec<_> = repaired.failures.iter().map(with_hints).collect();
    for (program, package) in tools() {
        if let Err(failure) = config.tool(program, package) {
            issues.push(with_hints(&failure));
        }
    }
    let mut machine = Machine::examine(config).await;
    let list = environments::list(store).map(|list| list.environments);
    let leftovers = leftovers::find(config, store).await;
    let templates = environments::count_templates(config, store);
    let spares = spares::list(config).await;
    let spares = SparesReport {
        count: spares.len(),
        private_bytes: spares.iter().map(|spare| spare.private_bytes).sum(),
    };
    let mut checks = machine.checks(config);
    checks.extend(repaired.failures.iter().map(checks::repair));
    let is_bootable = checks.iter().all(|check| check.status != CheckStatus::Fail);
    let networking = network::report::examine(config, is_bootable);
    checks.push(checks::network(&networking));
    checks.push(checks::space(config));
    checks.push(checks::environments(list.as_deref()));
    checks.push(checks::templates(templates.as_ref().copied()));
    checks.push(checks::leftovers(leftovers.as_deref()));
    checks.push(checks::spares(&spares));
    checks.push(checks::versions(machine.qemu_version.as_deref()));
    let runtime_ok = checks.iter().all(|check| check.status != CheckStatus::Fail);

    let accelerator = note(machine.accelerator, &mut issues);
    let confinement = machine.confinement.take().and_then(|report| note(report, &mut issues));
    let guest_kernel = machine.guest_kernel.take().and_then(|report| note(report, &mut issues));
    let environments = note(list, &mut issues).unwrap_or_default();
    issues.extend(environments.iter().filter_map(|entry| {
        let damage = entry.damage.as_ref()?;
        Some(format!("`{0}` is damaged: {damage}; repair it with `pyro env pull {0}`", entry.name))
    }));
    let leftovers = note(leftovers, &mut issues).unwrap_or_default();
    let places = [checks::DIRECTORIES, checks::SPACE];
    let failed = checks
        .iter()
        .filter(|check| check.status == CheckStatus::Fail && places.contains(&check.name));
    issues.extend(
        failed.map(|check| {
            format!("{}; {}", check.reason, check.remedy.as_deref().unwrap_or_default())
        }),
    );
    DoctorReport {
        platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
        runtime_ok,
        leftovers,
        spares,
        kvm: machine.kvm,
        confinement,
        guest_kernel,
        runtime: RuntimeReport {
            version: env!("CARGO_PKG_VERSION"),
            accelerator: accelerator.filter(|_| runtime_ok),
            qemu: machine.qemu,
            qemu_version: machine.qemu_version,
            capabilities: Capabilities {
                supports_vm_boot: runtime_ok,
                supports_guest_exec: runtime_ok,
                supports_guest_network: runtime_ok && networking.available,
                reason: (!runtime_ok).then(|| issues.join("; ")),
            },
            catalog_version: CATALOG_VERSION,
            cache_dir: config.cache_dir.clone(),
            state_dir: config.state_dir.clone(),
            environments,
        },
        networking,
        issues,
        checks,
        fixed: repaired.fixed,
    }
}

/// What makes VMs on this host.
struct Machine {
    kvm: KvmProbe,
    accelerator: Result<Accelerator, PyroError>,
    qemu: Option<PathBuf>,
    qemu_version: Option<String>,
    /// `None` where there is no QEMU or no accelerator to try it with.
    confinement: Option<Result<ConfinementReport, PyroError>>,
    /// `None` where there is no accelerator.
    guest_kernel: Option<Result<GuestKernelReport, PyroError>>,
}

impl Machine {
    async fn examine(config: &Config) -> Self {
        let kvm = accelerator::probe(config).await;
        let accelerator = accelerator::choose_by(config.accelerator, &kvm);
        let (program, package) = checks::QEMU;
        let qemu = config.tool(program, package).ok();
        let confinement = match (&qemu, &accelerator) {
            (Some(qemu), Ok(accelerator)) => {
                Some(confinement::examine(config, qemu, *accelerator).await)
            }
            _ => None,
        };
        let guest_kernel = accelerator.as_ref().ok().map(|accelerator| {
            guest_kernel::examine(config.guest_kernel, *accelerator, &config.pyro)
        });
        let qemu_version =
            qemu.as_deref().and_then(|path| pyro_qemu::executable::version(path).ok());
        Self { kvm, accelerator, qemu, qemu_version, confinement, guest_kernel }
    }

    /// All that decides whether VMs can run, as far as the environments' store does not.
    fn checks(&self, config: &Config) -> Vec<Check> {
        vec![
            checks::pyro(),
            checks::qemu(self.qemu.as_deref(), self.qemu_version.as_deref()),
            checks::programs(config),
            checks::kvm(&self.kvm),
            checks::accelerator(config.accelerator, self.accelerator.as_ref().copied(), &self.kvm),
            checks::confinement(self.confinement.as_ref()),
            checks::guest_kernel(self.guest_kernel.as_ref()),
            checks::directories(config),
        ]
    }
}

/// What a VM or a pull needs of the host, with the Debian package that has it.
fn tools() -> impl Iterator<Item = (&'static str, &'static str)> {
    [checks::QEMU, checks::DISK_MAKER].into_iter().chain(checks::PULL_PROGRAMS)
}

fn note<T>(result: Result<T, PyroError>, issues: &mut Vec<String>) -> Option<T> {
    result.map_err(|failure| issues.push(with_hints(&failure))).ok()
}

fn with_hints(failure: &PyroError) -> String {
    let parts = std::iter::once(&failure.message).chain(&failure.causes).chain(&failure.hints);
    parts.map(String::as_str).collect::<Vec<_>>().join("; ")
}
