//! Whether hardware runs the VMs, and what stands in the way where it does not.

use std::os::unix::fs::MetadataExt;

use pyro_protocol::client::Accelerator;
use pyro_qemu::accelerator::KvmProbe;

use super::Check;
use crate::PyroError;
use crate::config::AcceleratorChoice;

/// What of the host decides about the remedy.
struct HostCpu {
    /// The module that gives this CPU's virtualisation to KVM; none where the CPU shows none.
    module: Option<&'static str>,
    /// The group that may use `/dev/kvm`, if there is one.
    group: Option<String>,
}

pub(crate) fn kvm(probe: &KvmProbe) -> Check {
    judge(probe, &HostCpu::of_this_host())
}

fn judge(probe: &KvmProbe, host: &HostCpu) -> Check {
    let reason = &probe.reason;
    if probe.usable {
        return Check::pass("kvm", reason);
    }
    let remedy = if !probe.exists {
        match host.module {
            Some(module) => format!("sudo modprobe {module}"),
            None => "enable virtualisation in the firmware, or nested virtualisation where this host is itself a VM; \
                     in a container, pass `--device /dev/kvm`"
                .to_owned(),
        }
    } else if !(probe.readable && probe.writable) {
        match &host.group {
            Some(group) => join(group),
            None => format!(
                "sudo groupadd -fr kvm && sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm && {}",
                join("kvm")
            ),
        }
    } else if probe.instructions_per_second.is_some() {
        "none on this host: VMs run under software emulation, about ten times slower and behind the same boundary; a host \
         with hardware virtualisation is faster"
            .to_owned()
    } else {
        "sudo dmesg | grep -i kvm".to_owned()
    };
    Check::warn("kvm", reason, remedy)
}

/// Has the user use the device as one of its group.
fn join(group: &str) -> String {
    // There is not everywhere a USER.
    format!("sudo usermod -aG {group} \"$(id -un)\" && newgrp {group}")
}

/// What VMs run on, by what was chosen for `choice`.
pub(crate) fn accelerator(
    choice: AcceleratorChoice,
    chosen: Result<Accelerator, &PyroError>,
    probe: &KvmProbe,
) -> Check {
    const NAME: &str = "accelerator";
    match chosen {
        Ok(Accelerator::Kvm) => Check::pass(NAME, "kvm"),
        Ok(Accelerator::Tcg) if choice == AcceleratorChoice::Tcg && probe.usable => Check::warn(
            NAME,
            "tcg, as `PYRO_ACCELERATOR` says, though KVM is usable: about ten times slower",
            "unset PYRO_ACCELERATOR",
        ),
        // Why it is no better is what the check of KVM says.
        Ok(Accelerator::Tcg) => Check::pass(
            NAME,
            "tcg (software emulation: the same VM boundary, about ten times slower)",
        ),
        Err(failure) => Check::fail(NAME, super::reason(failure), "unset PYRO_ACCELERATOR"),
    }
}

impl HostCpu {
    fn of_this_host() -> Self {
        let cpu = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let groups = fs_err::read_to_string("/etc/group").unwrap_or_default();
        let device = fs_err::metadata("/dev/kvm").ok();
        // A group that may not use it either is no remedy, and root's is none for users.
        let device = device.filter(|device| device.mode() & 0o060 == 0o060 && device.gid() != 0);
        Self {
            module: module(&cpu),
            group: device.and_then(|device| group_name(&groups, device.gid())),
        }
    }
}

fn module(cpu: &str) -> Option<&'static str> {
    let flags = cpu.lines().find(|line| line.starts_with("flags"))?;
    let has = |flag| flags.split_whitespace().any(|found| found == flag);
    if has("vmx") {
        Some("kvm_intel")
    } else if has("svm") {
        Some("kvm_amd")
    } else {
        None
    }
}

fn group_name(groups: &str, id: u32) -> Option<String> {
    let fields = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut found = fields.filter(|fields| fields.get(2).is_some_and(|it| *it == id.to_string()));
    found.next().map(|fields| fields[0].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::CheckStatus;

    const PROBE: KvmProbe = KvmProbe {
        exists: true,
        readable: true,
        writable: true,
        usable: false,
        reason: String::new(),
        instructions_per_second: None,
    };

    fn remedy(probe: &KvmProbe, module: Option<&'static str>, group: Option<&str>) -> String {
        let host = HostCpu { module, group: group.map(str::to_owned) };
        let check = judge(probe, &host);
        assert_eq!(check.status, CheckStatus::Warn);
        check.remedy.unwrap()
    }

    #[test]
    fn a_missing_device_needs_its_module_where_the_cpu_has_one() {
        let probe = KvmProbe { exists: false, ..PROBE };
        assert_eq!(remedy(&probe, Some("kvm_amd"), None), "sudo modprobe kvm_amd");
        assert!(remedy(&probe, None, None).contains("firmware"));
    }

    #[test]
    fn a_device_that_others_may_use_needs_its_group() {
        let probe = KvmProbe { writable: false, ..PROBE };
        let joined = remedy(&probe, None, Some("kvm"));
        assert!(joined.starts_with("sudo usermod -aG kvm \"$(id -un)\" "), "{joined}");
        let made = remedy(&probe, None, None);
        assert!(made.contains("chmod 660 /dev/kvm && ") && made.ends_with(&joined), "{made}");
    }

    #[test]
    fn an_emulated_kvm_is_explained_and_a_broken_one_looked_into() {
        let emulated = KvmProbe { instructions_per_second: Some(1_200_000), ..PROBE };
        assert!(remedy(&emulated, None, None).contains("software emulation"));
        assert!(remedy(&PROBE, None, None).contains("dmesg"));
        let usable = KvmProbe { usable: true, ..PROBE };
        assert_eq!(kvm(&usable).status, CheckStatus::Pass);
    }

    #[test]
    fn modules_and_groups_are_read_from_what_the_kernel_and_the_host_say() {
        assert_eq!(module("processor : 0\nflags\t\t: fpu vmx sse\n"), Some("kvm_intel"));
        assert_eq!(module("flags\t\t: fpu svm\n"), Some("kvm_amd"));
        assert_eq!(module("flags\t\t: fpu\n"), None);
        let groups = "root:x:0:\nkvm:x:106:someone\n";
        assert_eq!(group_name(groups, 106).as_deref(), Some("kvm"));
        assert_eq!(group_name(groups, 10), None);
    }

    #[test]
    fn a_slower_accelerator_than_there_is_was_asked_for() {
        let usable = KvmProbe { usable: true, ..PROBE };
        let check = accelerator(AcceleratorChoice::Tcg, Ok(Accelerator::Tcg), &usable);
        assert_eq!(check.remedy.as_deref(), Some("unset PYRO_ACCELERATOR"));
        let check = accelerator(AcceleratorChoice::Auto, Ok(Accelerator::Tcg), &PROBE);
        assert_eq!(check.status, CheckStatus::Pass);
    }
}
