//! How QEMU is confined on this host. Found out once per boot of the host by trying, in a process of
//! its own: what a host allows depends on kernel, security modules, and the container around.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pyro_protocol::client::{Accelerator, Confinement, Namespaces, QemuIdentity};
use pyro_qemu::confinement::{ConfinementProbe, Controller};
use serde::{Deserialize, Serialize};

use crate::config::{Config, ConfinementChoice, INTERNAL_PROBE_CONFINEMENT};
use crate::probe::{self, Question};
use crate::{ErrorKind, PyroError};

/// Five starts of QEMU at most, none of which takes a tenth of a second on an idle host.
const PROBE_DEADLINE: Duration = Duration::from_secs(30);

/// What the kernel lets this user do is decided by these; not every kernel has all of them.
const SETTINGS: [&str; 4] = [
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/sys/kernel/security/lsm",
];

/// Settings, the value with which they refuse namespaces, and what allows them again.
const REFUSING: [(&str, &str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns=0",
    ),
];

/// What else it depends on: privileges and filters that this process has inherited.
const PRIVILEGES: [&str; 7] =
    ["Uid:", "Gid:", "CapPrm:", "CapBnd:", "NoNewPrivs:", "Seccomp:", "Seccomp_filters:"];

/// What the probe's answer depends on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ProbeKey {
    boot_id: String,
    accelerator: Accelerator,
    qemu: PathBuf,
    /// Size and time of the file.
    qemu_build: Option<(u64, i64, i64)>,
    settings: Vec<String>,
    privileges: Vec<String>,
}

/// What keeps a QEMU that its guest took over away from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfinementReport {
    pub identity: QemuIdentity,
    pub namespaces: Namespaces,
    /// The version of Landlock's interface in the kernel; 0 where it has none.
    pub landlock_abi: i32,
    /// What control groups limit beyond the limits of the process itself.
    pub control_group: Vec<Controller>,
    /// QEMU filters its own system calls.
    pub seccomp: bool,
    pub no_new_privileges: bool,
    pub resource_limits: bool,
    /// Why there is not more, if there could be.
    pub refused: Vec<String>,
    pub remedies: Vec<String>,
}

/// Probes the confinement of the QEMU at `qemu` in this very process. For the process that exists to do
/// it, on its main thread.
pub async fn probe_confinement(qemu: &Path, accelerator: Accelerator) -> impl Serialize {
    pyro_qemu::confinement::probe(qemu, accelerator).await
}

/// The confinement of every QEMU on this host. Fails where QEMU does not start at all, and where the
/// user requires more than the host allows.
pub(crate) async fn choose(
    config: &Config,
    qemu: &Path,
    accelerator: Accelerator,
) -> Result<Confinement, PyroError> {
    let probe = question(qemu, accelerator).answer(config).await;
    choose_by(config.confinement, probe.as_ref())
}

/// Decides for `choice` by what the probe found, or by why it found nothing.
pub(crate) fn choose_by(
    choice: ConfinementChoice,
    probe: Result<&ConfinementProbe, &String>,
) -> Result<Confinement, PyroError> {
    let unusable = |reason: &str| {
        PyroError::new(ErrorKind::HostUnsupported, "QEMU does not start on this host")
            .cause(reason.to_owned())
            .hint("reinstall QEMU: `sudo apt-get install --reinstall qemu-system-x86`")
    };
    let probe = probe.map_err(|reason| unusable(reason))?;
    let reason = probe.refused.first().map_or("", |refused| &refused.reason);
    match probe.in_force {
        None => Err(unusable(probe.refused.last().map_or("", |refused| &refused.reason))),
        Some(confinement)
            if choice == ConfinementChoice::Required && confinement.namespaces != Namespaces::All =>
        {
            Err(PyroError::new(
                ErrorKind::HostUnsupported,
                "this host does not allow all of QEMU's confinement, which PYRO_CONFINEMENT requires",
            )
            .cause(reason.to_owned())
            .hint("see `pyro doctor` for what is refused")
            .hint("unset `PYRO_CONFINEMENT`: QEMU is then confined as far as the host allows"))
        }
        Some(confinement) => Ok(confinement),
    }
}

/// What keeps QEMU in, tried out at this moment. Fails like [`choose`].
pub(crate) async fn examine(
    config: &Config,
    qemu: &Path,
    accelerator: Accelerator,
) -> Result<ConfinementReport, PyroError> {
    let probe = question(qemu, accelerator).fresh_answer(config).await;
    let Confinement { identity, namespaces } = choose_by(config.confinement, probe.as_ref())?;
    let ConfinementProbe { landlock_abi, control_group, refused, .. } =
        probe.expect("something was chosen");
    let mut reasons: Vec<_> = refused.into_iter().map(|refused| refused.reason).collect();
    reasons.sort_unstable();
    reasons.dedup();
    let remedies = if reasons.is_empty() { Vec::new() } else { remedies() };
    Ok(ConfinementReport {
        identity,
        namespaces,
        landlock_abi,
        control_group,
        seccomp: true,
        no_new_privileges: true,
        resource_limits: true,
        refused: reasons,
        remedies,
    })
}

/// What an administrator can do about namespaces that are refused.
fn remedies() -> Vec<String> {
    let refusing = REFUSING.into_iter().filter(|(path, refuses, _)| {
        fs_err::read_to_string(path).is_ok_and(|value| value.trim() == *refuses)
    });
    let mut remedies: Vec<_> =
        refusing.map(|(.., setting)| format!("sudo sysctl {setting}")).collect();
    if remedies.is_empty() {
        remedies.push(
            "in a container, allow user namespaces and mounts, for instance with \
             `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`"
                .to_owned(),
        );
    }
    remedies
}

fn question(qemu: &Path, accelerator: Accelerator) -> Question<ProbeKey> {
    let mut arguments: Vec<_> = INTERNAL_PROBE_CONFINEMENT.map(Into::into).into();
    arguments.extend([accelerator.name().into(), qemu.into()]);
    Question {
        arguments,
        depends_on: ProbeKey::of_this_host(qemu, accelerator),
        memory: "confinement-probe.json",
        deadline: PROBE_DEADLINE,
    }
}

impl ProbeKey {
    fn of_this_host(qemu: &Path, accelerator: Accelerator) -> Self {
        let build = fs_err::metadata(qemu).ok();
        let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
        let settings = SETTINGS.map(|path| fs_err::read_to_string(path).unwrap_or_default());
        let is_privilege = |line: &&str| PRIVILEGES.iter().any(|name| line.starts_with(name));
        Self {
            boot_id: probe::boot_id(),
            accelerator,
            qemu: qemu.to_owned(),
            qemu_build: build.map(|file| (file.size(), file.mtime(), file.mtime_nsec())),
            settings: settings.into(),
            privileges: status.lines().filter(is_privilege).map(str::to_owned).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use pyro_qemu::confinement::Refused;

    use super::*;

    const BEST: Confinement =
        Confinement { identity: QemuIdentity::UserNamespace, namespaces: Namespaces::All };
    const LEAST: Confinement =
        Confinement { identity: QemuIdentity::Caller, namespaces: Namespaces::None };

    fn probe(in_force: Option<Confinement>) -> ConfinementProbe {
        let refused = vec![Refused { confinement: BEST, reason: "not permitted".to_owned() }];
        ConfinementProbe { in_force, landlock_abi: 0, control_group: Vec::new(), refused }
    }

    #[test]
    fn the_best_that_works_is_taken_unless_more_is_required() {
        let least = probe(Some(LEAST));
        let chosen = choose_by(ConfinementChoice::Auto, Ok(&least)).unwrap();
        assert_eq!(chosen, LEAST);
        let failure = choose_by(ConfinementChoice::Required, Ok(&least)).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::HostUnsupported);
        assert_eq!(failure.causes, ["not permitted"]);
        let best = probe(Some(BEST));
        assert_eq!(choose_by(ConfinementChoice::Required, Ok(&best)).unwrap(), BEST);
    }

    #[test]
    fn a_qemu_that_never_starts_is_an_error_with_its_reason() {
        let failure = choose_by(ConfinementChoice::Auto, Ok(&probe(None))).unwrap_err();
        assert_eq!(failure.causes, ["not permitted"]);
    }
}
