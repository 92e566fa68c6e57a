//! How QEMU is confined on this host. Found out once per boot of the host by trying, in a process of
//! its own: what a host allows depends on kernel, security modules, and the container around.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pyro_protocol::client::{Accelerator, Confinement, Namespaces, QemuIdentity};
use pyro_qemu::confinement::{ConfinementProbe, Controller};
use serde::{Deserialize, Serialize};

use crate::config::{Config, ConfinementChoice, INTERNAL_PROBE_CONFINEMENT};
use crate::probe::{self, Answer, Question};
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

/// What the probe's answer depends on.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ProbeKey {
    boot_id: String,
    accelerator: Accelerator,
    qemu: PathBuf,
    /// Size, number and change time of the file.
    qemu_build: Option<(u64, u64, i64, i64)>,
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

impl ConfinementReport {
    /// All of it in one line, for people.
    pub fn summary(&self) -> String {
        let mut parts = vec![
            match self.identity {
                QemuIdentity::Nobody => "a user who owns nothing",
                QemuIdentity::UserNamespace => "a user namespace",
                QemuIdentity::Caller => "NO other user",
            },
            match self.namespaces {
                Namespaces::All => "files, processes, network of its own",
                Namespaces::WithoutFileTree => "network of its own, NO files of its own",
                Namespaces::None => "NO files and network of its own",
            },
        ];
        parts.push(if self.landlock_abi > 0 { "Landlock" } else { "NO Landlock" });
        parts.push(if self.seccomp { "seccomp" } else { "NO seccomp" });
        parts.push("resource limits");
        if !self.control_group.is_empty() {
            parts.push("control group");
        }
        parts.join(", ")
    }
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
    let failed = |message: &str, reason: &str| {
        PyroError::new(ErrorKind::HostUnsupported, message).cause(reason.to_owned())
    };
    let probe = probe.map_err(|reason| failed("QEMU cannot be tried out on this host", reason))?;
    // Something ran out for a moment: that is no reason to do without a wall.
    if let Some(passing) = probe.refused.iter().find(|refused| !refused.lasting) {
        return Err(failed("QEMU cannot be confined at this moment", &passing.reason)
            .hint("try again; check limits of processes, files and memory if it fails again"));
    }
    let reasons = || {
        let reasons = probe.refused.iter().map(|refused| refused.reason.as_str());
        reasons.chain((probe.landlock_abi == 0).then_some("the kernel has no Landlock"))
    };
    match probe.in_force {
        None => {
            let reason = reasons().next_back().unwrap_or_default();
            Err(failed("QEMU does not start on this host", reason)
                .hint("reinstall QEMU: `sudo apt-get install --reinstall qemu-system-x86`"))
        }
        Some(_) if choice == ConfinementChoice::Required && !probe.is_complete() => Err(failed(
            "this host does not allow all of QEMU's confinement, which PYRO_CONFINEMENT requires",
            reasons().next().unwrap_or("QEMU does not filter its system calls"),
        )
        .hint("see `pyro doctor` for what is refused")
        .hint("unset `PYRO_CONFINEMENT`: QEMU is then confined as far as the host allows")),
        Some(confinement) => Ok(confinement),
    }
}

impl Answer for ConfinementProbe {
    fn is_lasting(&self) -> bool {
        ConfinementProbe::is_lasting(self)
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
    let ConfinementProbe { landlock_abi, control_group, seccomp, refused, .. } =
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
        seccomp,
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
        let settings = SETTINGS.map(|path| fs_err::read_to_string(path).unwrap_or_default());
        Self {
            boot_id: probe::boot_id(),
            accelerator,
            qemu: qemu.to_owned(),
            qemu_build: build
                .map(|file| (file.size(), file.ino(), file.ctime(), file.ctime_nsec())),
            settings: settings.into(),
            privileges: probe::privileges(),
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

    fn probe(in_force: Option<Confinement>, refused: &[(&str, bool)]) -> ConfinementProbe {
        let refused = refused.iter().map(|&(reason, lasting)| Refused {
            confinement: BEST,
            reason: reason.to_owned(),
            lasting,
        });
        let refused = refused.collect();
        let control_group = Vec::new();
        ConfinementProbe { in_force, landlock_abi: 1, control_group, seccomp: true, refused }
    }

    #[test]
    fn the_best_that_works_is_taken_unless_more_is_required() {
        let least = probe(Some(LEAST), &[("not permitted", true)]);
        let chosen = choose_by(ConfinementChoice::Auto, Ok(&least)).unwrap();
        assert_eq!(chosen, LEAST);
        let failure = choose_by(ConfinementChoice::Required, Ok(&least)).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::HostUnsupported);
        assert_eq!(failure.causes, ["not permitted"]);
        let best = probe(Some(BEST), &[]);
        assert_eq!(choose_by(ConfinementChoice::Required, Ok(&best)).unwrap(), BEST);
    }

    #[test]
    fn all_that_is_required_includes_landlock() {
        let best = ConfinementProbe { landlock_abi: 0, ..probe(Some(BEST), &[]) };
        let failure = choose_by(ConfinementChoice::Required, Ok(&best)).unwrap_err();
        assert_eq!(failure.causes, ["the kernel has no Landlock"]);
        assert!(choose_by(ConfinementChoice::Auto, Ok(&best)).is_ok());
    }

    #[test]
    fn what_runs_out_for_a_moment_takes_no_wall_away_and_is_not_remembered() {
        let passing = probe(Some(LEAST), &[("too many open files", false)]);
        let failure = choose_by(ConfinementChoice::Auto, Ok(&passing)).unwrap_err();
        assert_eq!(failure.causes, ["too many open files"]);
        assert!(!passing.is_lasting());
        assert!(probe(Some(LEAST), &[("not permitted", true)]).is_lasting());
        assert!(!probe(None, &[("not permitted", true)]).is_lasting());
    }

    #[test]
    fn a_qemu_that_never_starts_is_an_error_with_its_reason() {
        let broken = probe(None, &[("first", true), ("last", true)]);
        let failure = choose_by(ConfinementChoice::Auto, Ok(&broken)).unwrap_err();
        assert_eq!(failure.causes, ["last"]);
    }
}
