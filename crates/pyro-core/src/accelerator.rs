//! Which accelerator a VM gets. KVM is probed once per boot of the host, in a process of its own:
//! a broken KVM can hold the thread that asks it for ever.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use pyro_protocol::client::Accelerator;
use pyro_qemu::accelerator::KvmProbe;
use rustix::fs::Access;
use serde::{Deserialize, Serialize};

use crate::config::{AcceleratorChoice, Config, INTERNAL_PROBE_KVM};
use crate::probe::{self, Answer, Question};
use crate::{ErrorKind, PyroError};

/// The probe takes at most 150 ms where KVM is emulated; a busy host gets the rest.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

const KVM: &str = "/dev/kvm";

/// Probes KVM in this very process. For the process that exists to do it.
pub fn probe_kvm() -> impl Serialize {
    pyro_qemu::accelerator::probe_kvm()
}

/// What the probe's answer depends on. If none of it changed, the answer has not either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ProbeKey {
    boot_id: String,
    privileges: Vec<String>,
    /// Device number, mode, owner, group and change time of `/dev/kvm`, if it exists.
    device: Option<(u64, u32, u32, u32, i64, i64)>,
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
    let question = Question {
        arguments: INTERNAL_PROBE_KVM.map(Into::into).into(),
        depends_on: ProbeKey::of_this_host(),
        memory: "kvm-probe.json",
        deadline: PROBE_DEADLINE,
    };
    question.answer(config).await.unwrap_or_else(|reason| unprobed(Path::new(KVM), reason))
}

/// What can be said where the probe says nothing.
fn unprobed(device: &Path, reason: String) -> KvmProbe {
    let is_allowed = |access| rustix::fs::access(device, access).is_ok();
    KvmProbe {
        exists: device.exists(),
        readable: is_allowed(Access::READ_OK),
        writable: is_allowed(Access::WRITE_OK),
        usable: false,
        reason,
        instructions_per_second: None,
    }
}

impl Answer for KvmProbe {
    fn is_lasting(&self) -> bool {
        true
    }
}

impl ProbeKey {
    fn of_this_host() -> Self {
        let device = fs_err::metadata(KVM).ok().map(|device| {
            let (seconds, nanoseconds) = (device.ctime(), device.ctime_nsec());
            (device.rdev(), device.mode(), device.uid(), device.gid(), seconds, nanoseconds)
        });
        Self { boot_id: probe::boot_id(), privileges: probe::privileges(), device }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_says_nothing_does_not_hide_what_the_device_allows() {
        let device = tempfile::NamedTempFile::new().unwrap();
        let probe = unprobed(device.path(), "it hangs".to_owned());
        assert!(probe.exists && probe.readable && probe.writable && !probe.usable);
        let probe = unprobed(Path::new("/nonexistent"), "it hangs".to_owned());
        assert!(!probe.exists && !probe.readable && !probe.writable && !probe.usable);
    }
}
