//! Which accelerator a VM gets. KVM is probed once per boot of the host, in a process of its own:
//! a broken KVM can hold the thread that asks it for ever.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pyro_protocol::client::Accelerator;
use pyro_qemu::accelerator::KvmProbe;
use serde::{Deserialize, Serialize};

use crate::config::{AcceleratorChoice, Config, INTERNAL_PROBE_KVM};
use crate::{ErrorKind, PyroError};

/// The probe takes at most 150 ms where KVM is emulated; a busy host gets the rest.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// Probes KVM in this very process. For the process that exists to do it.
pub fn probe_kvm() -> impl Serialize {
    pyro_qemu::accelerator::probe_kvm()
}

/// What the probe's answer depends on. If none of it changed, the answer has not either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ProbeKey {
    boot_id: String,
    user: u32,
    /// Device number, mode, owner, group and change time of `/dev/kvm`, if it exists.
    device: Option<(u64, u32, u32, u32, i64, i64)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RememberedProbe {
    key: ProbeKey,
    probe: KvmProbe,
}

/// Decides for `config`'s choice.
pub(crate) async fn choose(config: &Config) -> Result<Accelerator, PyroError> {
    match config.accelerator {
        // Whatever the probe says.
        AcceleratorChoice::Tcg => Ok(Accelerator::Tcg),
        choice => choose_by(choice, &probe(config).await),
    }
}

/// Decides for `choice` by what the probe found.
pub(crate) fn choose_by(
    choice: AcceleratorChoice,
    probe: &KvmProbe,
) -> Result<Accelerator, PyroError> {
    match choice {
        AcceleratorChoice::Auto | AcceleratorChoice::Kvm if probe.usable => Ok(Accelerator::Kvm),
        AcceleratorChoice::Auto | AcceleratorChoice::Tcg => Ok(Accelerator::Tcg),
        AcceleratorChoice::Kvm => {
            Err(PyroError::new(ErrorKind::HostUnsupported, "KVM is not usable on this host")
                .cause(probe.reason.clone())
                .hint("unset `PYRO_ACCELERATOR`: VMs then run under software emulation"))
        }
    }
}

/// The probe's answer, remembered or fresh.
pub(crate) async fn probe(config: &Config) -> KvmProbe {
    let key = ProbeKey::of_this_host();
    let memory = config.cache_dir.join("kvm-probe.json");
    if let Some(remembered) = remembered(&memory)
        && remembered.key == key
    {
        return remembered.probe;
    }
    match fresh_probe(config).await {
        Ok(probe) => {
            let probe = RememberedProbe { key, probe };
            // Forgetting costs a few milliseconds next time.
            remember(&memory, &probe).ok();
            probe.probe
        }
        Err(reason) => {
            let exists = Path::new("/dev/kvm").exists();
            KvmProbe {
                exists,
                readable: false,
                writable: false,
                usable: false,
                reason,
                instructions_per_second: None,
            }
        }
    }
}

async fn fresh_probe(config: &Config) -> Result<KvmProbe, String> {
    let output = tokio::process::Command::new(&config.pyro)
        .args(INTERNAL_PROBE_KVM)
        .env_clear()
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PROBE_DEADLINE, output)
        .await
        .map_err(|_| format!("the probe hung for {} seconds", PROBE_DEADLINE.as_secs()))?
        .map_err(|error| {
            format!("the probe `{}` does not start: {error}", config.pyro.display())
        })?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("the probe failed ({})", output.status))
}

impl ProbeKey {
    fn of_this_host() -> Self {
        let boot_id = fs_err::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let device = fs_err::metadata("/dev/kvm").ok().map(|device| {
            let (seconds, nanoseconds) = (device.ctime(), device.ctime_nsec());
            (device.rdev(), device.mode(), device.uid(), device.gid(), seconds, nanoseconds)
        });
        Self { boot_id, user: rustix::process::geteuid().as_raw(), device }
    }
}

fn remembered(memory: &PathBuf) -> Option<RememberedProbe> {
    serde_json::from_slice(&fs_err::read(memory).ok()?).ok()
}

fn remember(memory: &Path, probe: &RememberedProbe) -> io::Result<()> {
    let directory = memory.parent().expect("a file in the cache directory");
    fs_err::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    serde_json::to_writer(&mut file, probe)?;
    file.persist(memory)?;
    Ok(())
}
