//! `pyro doctor`.

use std::process::ExitCode;

use pyro_core::{
    ConfinementReport, DoctorReport, GuestKernelKind, GuestKernelReport, LeftoverKind, Namespaces,
    PinInfo, PyroError, QemuIdentity,
};

use crate::arguments::OutputArguments;
use crate::terminal::{self, BOLD, GREEN, RED, YELLOW};

pub(crate) fn doctor(output: OutputArguments) -> ExitCode {
    match examine() {
        Ok(report) => {
            let printed = if output.json {
                terminal::print_json(&report)
            } else {
                terminal::print(&text(&report))
            };
            let code = if report.runtime_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            terminal::exit_code(printed, code, 1)
        }
        Err(failure) => {
            terminal::fail(&failure, output.json);
            ExitCode::FAILURE
        }
    }
}

fn examine() -> Result<DoctorReport, PyroError> {
    let pyro = super::pyro(None)?;
    super::block_on(pyro.doctor())
}

fn text(report: &DoctorReport) -> String {
    let runtime = &report.runtime;
    let mut text = String::new();
    let mut line = |mark: &str, name: &str, value: &str| {
        text += &format!("  {mark} {name:<14} {value}\n");
    };
    let pass = format!("{GREEN}ok  {GREEN:#}");
    let note = format!("{YELLOW}note{YELLOW:#}");
    let fail = format!("{RED}FAIL{RED:#}");

    line(&pass, "pyro", &format!("{} on {}", runtime.version, report.platform));
    match (&runtime.qemu, &runtime.qemu_version) {
        (Some(path), Some(version)) => {
            line(&pass, "qemu", &format!("{version} at {}", path.display()));
        }
        _ => line(&fail, "qemu", "not found"),
    }
    let kvm_mark = if report.kvm.usable { &pass } else { &note };
    let kvm = if report.kvm.usable { "usable" } else { "not usable" };
    line(kvm_mark, "kvm", &format!("{kvm}: {}", report.kvm.reason));
    match runtime.accelerator {
        Some(pyro_core::Accelerator::Kvm) => line(&pass, "accelerator", "kvm"),
        Some(pyro_core::Accelerator::Tcg) => line(
            &note,
            "accelerator",
            "tcg (software emulation: the same VM boundary, about ten times slower)",
        ),
        None => line(&fail, "accelerator", "none"),
    }
    match &report.confinement {
        Some(report) => {
            let mark = if report.refused.is_empty() { &pass } else { &note };
            line(mark, "confinement", &confinement(report));
            for reason in &report.refused {
                line("    ", "", &format!("more is refused: {reason}"));
            }
            for remedy in &report.remedies {
                line("    ", "", &format!("remedy: {remedy}"));
            }
        }
        None => line(&fail, "confinement", "none: QEMU does not start"),
    }
    match &report.guest_kernel {
        Some(report) => line(&pass, "guest kernel", &guest_kernel(report)),
        None => line(&fail, "guest kernel", "none"),
    }
    let networking = &report.networking;
    line(if networking.available { &pass } else { &note }, "network", &networking.reason);
    if !networking.resolvers.is_empty() {
        line("    ", "", &format!("names are looked up by {}", networking.resolvers.join(", ")));
    }
    for pin in &networking.pins {
        line("    ", "", &format!("pinned by {}: {}", pin.source, pinned(pin)));
    }
    for problem in networking.problems.iter().skip(1) {
        line("    ", "", problem);
    }
    line(&pass, "environments", &runtime.cache_dir.display().to_string());
    for environment in &runtime.environments {
        let state = match (environment.installed, &environment.damage) {
            (_, Some(damage)) => format!("damaged: {damage}"),
            (true, None) => "installed".to_owned(),
            (false, None) => "not pulled".to_owned(),
        };
        line("    ", "", &format!("{:<18} {state}", environment.name));
    }
    let spares = match (report.spares.count, report.spares.private_bytes >> 20) {
        (0, _) => "none".to_owned(),
        (count, mib) => format!("{count}, which have {mib} MiB for themselves"),
    };
    line(&pass, "spares", &spares);
    for leftover in &report.leftovers {
        let what = match leftover.kind {
            LeftoverKind::Vm => "a VM whose supervisor was killed",
            LeftoverKind::ControlGroup => "a control group whose supervisor was killed",
            LeftoverKind::Template => "a template whose maker was killed",
            LeftoverKind::Build => "a build that was killed",
            LeftoverKind::Spare => "a spare whose supervisor was killed",
        };
        line(&note, "left over", &format!("{what}: {}", leftover.path.display()));
        line("    ", "", &format!("remedy: {}", leftover.remedy));
    }
    for issue in &report.issues {
        line(&fail, "issue", issue);
    }
    let verdict = if report.runtime_ok { "VMs can run here" } else { "VMs can NOT run here" };
    format!("{text}\n{BOLD}{verdict}{BOLD:#}\n")
}

/// What an operator allows, in one line.
fn pinned(pin: &PinInfo) -> String {
    let mut parts = Vec::new();
    if !pin.network {
        parts.push("no network".to_owned());
    }
    if let Some(allow) = &pin.allow {
        parts.push(format!("at most {}", allow.join(", ")));
    }
    if !pin.deny.is_empty() {
        parts.push(format!("not {}", pin.deny.join(", ")));
    }
    if !pin.publish {
        parts.push("no published ports".to_owned());
    }
    if parts.is_empty() { "nothing".to_owned() } else { parts.join("; ") }
}

/// Whose kernel VMs boot, and why.
fn guest_kernel(report: &GuestKernelReport) -> String {
    let kernel = match (report.kernel, &report.release) {
        (GuestKernelKind::Pyro, Some(release)) => format!("pyro's own, {release}"),
        (GuestKernelKind::Pyro, None) => "pyro's own".to_owned(),
        (GuestKernelKind::Debian, _) => "Debian's, of the environment".to_owned(),
    };
    format!("{kernel}: {}", report.reason)
}

/// What keeps QEMU in, in one line.
fn confinement(report: &ConfinementReport) -> String {
    let mut parts = vec![
        match report.identity {
            QemuIdentity::Nobody => "a user who owns nothing",
            QemuIdentity::UserNamespace => "a user namespace",
            QemuIdentity::Caller => "NO other user",
        },
        match report.namespaces {
            Namespaces::All => "files, processes, network of its own",
            Namespaces::WithoutFileTree => "network of its own, NO files of its own",
            Namespaces::None => "NO files and network of its own",
        },
    ];
    parts.push(if report.landlock_abi > 0 { "Landlock" } else { "NO Landlock" });
    parts.push(if report.seccomp { "seccomp" } else { "NO seccomp" });
    parts.push("resource limits");
    if !report.control_group.is_empty() {
        parts.push("control group");
    }
    parts.join(", ")
}
