//! Whether this host can run VMs, and if not, what is missing.

use std::path::PathBuf;

use pyro_environments::{CATALOG_VERSION, Store};
use pyro_protocol::client::Accelerator;
use pyro_qemu::accelerator::KvmProbe;
use serde::Serialize;

use crate::config::Config;
use crate::confinement::{self, ConfinementReport};
use crate::environments::{self, EnvironmentEntry};
use crate::guest_kernel::{self, GuestKernelReport};
use crate::leftovers::{self, Leftover};
use crate::network::report::NetworkingReport;
use crate::vm::QEMU_PACKAGE;
use crate::{PyroError, accelerator, network, spares};

/// What a VM or a pull needs of the host, with the Debian package that has it.
const TOOLS: [(&str, &str); 5] = [
    (pyro_qemu::executable::PROGRAM, QEMU_PACKAGE),
    ("mke2fs", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("tar2sqfs", "squashfs-tools-ng"),
    ("unshare", "util-linux"),
];

/// The state of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    pub platform: String,
    /// VMs can run here.
    pub runtime_ok: bool,
    /// What is wrong, each with its remedy.
    pub issues: Vec<String>,
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

pub(crate) async fn examine(config: &Config, store: &Store) -> DoctorReport {
    let probe = accelerator::probe(config).await;
    let mut issues = Vec::new();
    for (program, package) in TOOLS {
        if let Err(failure) = config.tool(program, package) {
            issues.push(with_hints(&failure));
        }
    }
    let accelerator = note(accelerator::choose_by(config.accelerator, &probe), &mut issues);
    let qemu = config.tool(pyro_qemu::executable::PROGRAM, QEMU_PACKAGE).ok();
    let confinement = match (&qemu, accelerator) {
        (Some(qemu), Some(accelerator)) => {
            note(confinement::examine(config, qemu, accelerator).await, &mut issues)
        }
        _ => None,
    };
    let guest_kernel = accelerator.and_then(|accelerator| {
        let report = guest_kernel::examine(config.guest_kernel, accelerator, &config.pyro);
        note(report, &mut issues)
    });
    let qemu_version = qemu.as_deref().and_then(|path| pyro_qemu::executable::version(path).ok());
    let environments = note(environments::list(store), &mut issues)
        .map(|list| list.environments)
        .unwrap_or_default();
    issues.extend(environments.iter().filter_map(|entry| {
        let damage = entry.damage.as_ref()?;
        Some(format!("`{0}` is damaged: {damage}; repair it with `pyro env pull {0}`", entry.name))
    }));
    let leftovers = note(leftovers::find(config, store).await, &mut issues).unwrap_or_default();
    let spares = spares::list(config).await;
    let can_boot = accelerator.is_some()
        && qemu_version.is_some()
        && confinement.is_some()
        && guest_kernel.is_some()
        && config.tool("mke2fs", "e2fsprogs").is_ok();
    let networking = network::report::examine(config, can_boot);
    let supports_guest_network = networking.available;
    DoctorReport {
        platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
        runtime_ok: can_boot,
        leftovers,
        spares: SparesReport {
            count: spares.len(),
            private_bytes: spares.iter().map(|spare| spare.private_bytes).sum(),
        },
        kvm: probe,
        confinement,
        guest_kernel,
        networking,
        runtime: RuntimeReport {
            version: env!("CARGO_PKG_VERSION"),
            accelerator: accelerator.filter(|_| can_boot),
            qemu,
            qemu_version,
            capabilities: Capabilities {
                supports_vm_boot: can_boot,
                supports_guest_exec: can_boot,
                supports_guest_network,
                reason: (!can_boot).then(|| issues.join("; ")),
            },
            catalog_version: CATALOG_VERSION,
            cache_dir: config.cache_dir.clone(),
            state_dir: config.state_dir.clone(),
            environments,
        },
        issues,
    }
}

fn note<T>(result: Result<T, PyroError>, issues: &mut Vec<String>) -> Option<T> {
    result.map_err(|failure| issues.push(with_hints(&failure))).ok()
}

fn with_hints(failure: &PyroError) -> String {
    let parts = std::iter::once(&failure.message).chain(&failure.causes).chain(&failure.hints);
    parts.map(String::as_str).collect::<Vec<_>>().join("; ")
}
