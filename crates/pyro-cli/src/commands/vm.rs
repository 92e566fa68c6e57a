//! `pyro vm …`.

use std::cell::RefCell;
use std::process::ExitCode;

use pyro_core::{
    Cleanup, CreateRequest, HostCompat, Metadata, NetworkInfo, Progress, PublishedPortInfo, Pyro,
    PyroError, ReapReport, VmExecOutcome, VmId, VmInfo, VmList,
};
use serde::Serialize;

use super::{Ended, execution, logs, requests, show};
use crate::arguments::{CreateArguments, EXEC_EXAMPLE, ExecArguments, OutputArguments, VmCommand};
use crate::progress::Display;
use crate::terminal::{self, BOLD, escaped};

pub(crate) fn execute(command: VmCommand) -> ExitCode {
    match command {
        VmCommand::List { output } => {
            with_pyro(output, async |pyro| pyro.list_vms().await, list_text)
        }
        VmCommand::Create(arguments) => {
            let output = arguments.output;
            show_ended(output, create(&arguments), |info: &VmInfo| format!("{}\n", info.vm_id))
        }
        VmCommand::Start(vm) => show_ended(vm.output, start(&vm.id, vm.output), info_line),
        VmCommand::Exec(arguments) => exec(&arguments),
        VmCommand::Status(vm) => with_vm(
            vm.output,
            &vm.id,
            async |pyro, id| pyro.status_vm(id),
            |info| terminal::lines(17, &info_text(info)),
        ),
        VmCommand::Logs(arguments) => logs::logs(&arguments),
        VmCommand::NetworkInfo(vm) => with_vm(
            vm.output,
            &vm.id,
            async |pyro, id| pyro.network_info_vm(id),
            |network| terminal::lines(17, &network_text(network)),
        ),
        VmCommand::Reap { output } => {
            with_pyro(output, async |pyro| pyro.reap_expired().await, reap_text)
        }
        VmCommand::Stop(vm) => {
            with_vm(vm.output, &vm.id, async |pyro, id| pyro.stop_vm(id).await, info_line)
        }
        VmCommand::Delete(vm) => {
            with_vm(vm.output, &vm.id, async |pyro, id| pyro.delete_vm(id).await, deleted_text)
        }
    }
}

fn create(arguments: &CreateArguments) -> Result<Ended<Result<VmInfo, PyroError>>, PyroError> {
    let request = CreateRequest {
        vm: requests::vm(&arguments.environment, &arguments.vm, &arguments.network)?,
        metadata: Metadata::new(arguments.metadata.iter().cloned().collect())?,
        host_compat: HostCompat::Forbidden,
    };
    let pyro = super::pyro(Some(&arguments.archive))?;
    let display = Display::new(arguments.output);
    let show = |progress: Progress| display.show(progress);
    // Known to nobody else before this process has printed its name.
    let unnamed = RefCell::new(None);
    let work = async {
        let info = pyro.create_vm(request, &show).await?;
        if !arguments.start {
            return Ok(info);
        }
        let id = VmId::new(&info.vm_id)?;
        unnamed.replace(Some(id.clone()));
        pyro.start_vm(&id, &show).await
    };
    let ended = super::block_on(async {
        let ended = super::until_interrupted(&pyro, work).await;
        if !matches!(ended, Ended::ByItself(Ok(_)))
            && let Some(id) = unnamed.take()
        {
            // Why it did not start matters more than how it ends; its time to live ends it at last.
            pyro.delete_vm(&id).await.ok();
        }
        ended
    });
    display.clear();
    ended
}

fn start(id: &str, output: OutputArguments) -> Result<Ended<Result<VmInfo, PyroError>>, PyroError> {
    let id = VmId::new(id)?;
    let pyro = super::pyro(None)?;
    let display = Display::new(output);
    let show = |progress: Progress| display.show(progress);
    let ended = super::block_on(super::until_interrupted(&pyro, pyro.start_vm(&id, &show)));
    display.clear();
    ended
}

fn exec(arguments: &ExecArguments) -> ExitCode {
    execution::show(
        exec_until_interrupted(arguments),
        |outcome| &outcome.exec,
        &arguments.command,
        arguments.output,
    )
}

fn exec_until_interrupted(
    arguments: &ExecArguments,
) -> Result<Ended<Result<VmExecOutcome, PyroError>>, PyroError> {
    let ExecArguments { id, words, command, output } = arguments;
    let pyro = super::pyro(None)?;
    let request = requests::exec(words, command, *output, pyro.config(), EXEC_EXAMPLE)?;
    let id = VmId::new(id)?;
    let terminal = execution::terminal(command)?;
    let terminal = terminal.as_ref();
    let work = async {
        let streams = execution::streams(*output, terminal);
        if let Some(terminal) = terminal {
            terminal.lend();
        }
        execution::drive(pyro.exec_vm(&id, request, streams), terminal).await
    };
    super::block_on(super::until_interrupted(&pyro, work))
}

/// For what is asked of one VM, and answered soon.
fn with_vm<T: Serialize>(
    output: OutputArguments,
    id: &str,
    work: impl AsyncFnOnce(&Pyro, &VmId) -> Result<T, PyroError>,
    text: impl Fn(&T) -> String,
) -> ExitCode {
    match VmId::new(id) {
        Ok(id) => with_pyro(output, async |pyro| work(pyro, &id).await, text),
        Err(error) => show(output, Err(error), text),
    }
}

fn with_pyro<T: Serialize>(
    output: OutputArguments,
    work: impl AsyncFnOnce(&Pyro) -> Result<T, PyroError>,
    text: impl Fn(&T) -> String,
) -> ExitCode {
    let ended = super::pyro(None)
        .and_then(|pyro| super::block_on(super::until_interrupted(&pyro, work(&pyro))));
    show_ended(output, ended, text)
}

fn show_ended<T: Serialize>(
    output: OutputArguments,
    ended: Result<Ended<Result<T, PyroError>>, PyroError>,
    text: impl Fn(&T) -> String,
) -> ExitCode {
    match ended {
        Ok(Ended::ByItself(outcome)) => show(output, outcome, text),
        Ok(Ended::BySignal(signal)) => super::ended_by_signal(signal, output.json),
        Err(failure) => show(output, Err(failure), text),
    }
}

fn list_text(list: &VmList) -> String {
    let head = ("ID", "ENVIRONMENT", "STATE", "ENDS IN");
    let mut text =
        format!("{BOLD}{:<14} {:<18} {:<8} {:>8}{BOLD:#}\n", head.0, head.1, head.2, head.3);
    for vm in &list.vms {
        let left = format!("{} s", seconds_left(vm));
        text +=
            &format!("{:<14} {:<18} {:<8} {left:>8}\n", vm.vm_id, vm.environment, vm.state.name());
    }
    text
}

fn info_line(vm: &VmInfo) -> String {
    format!("{} is {}\n", vm.vm_id, vm.state.name())
}

fn info_text(vm: &VmInfo) -> String {
    let mut text = format!("{BOLD}{}{BOLD:#} is {}\n", vm.vm_id, vm.state.name());
    let mut field = |name: &str, value: &str| text += &format!("  {name:<14} {value}\n");
    field("environment", &format!("{} {}", vm.environment, vm.environment_version));
    field("vCPUs", &vm.vcpu_count.to_string());
    field("memory", &format!("{} MiB", vm.mem_mib));
    field("accelerator", vm.accelerator.map_or("-", |accelerator| accelerator.name()));
    field("ends in", &format!("{} s", seconds_left(vm)));
    for (name, value) in &vm.metadata {
        // An agent may have chosen them.
        field("metadata", &format!("{}={}", escaped(name), escaped(value)));
    }
    text
}

fn network_text(network: &NetworkInfo) -> String {
    let network = match network {
        NetworkInfo::Off(none) => {
            return format!("{} has no network: {}\n", none.vm_id, none.reason);
        }
        NetworkInfo::On(network) => network,
    };
    let mut text = format!("{BOLD}{}{BOLD:#} has a network\n", network.vm_id);
    let mut field = |name: &str, value: &str| text += &format!("  {name:<14} {value}\n");
    field("guest", &format!("{} in {}", network.guest_ip, network.subnet_cidr));
    field("gateway", &network.gateway_ip.to_string());
    for port in &network.published {
        field("published", &published(port));
    }
    for policy in &network.policy {
        let source = policy.source.as_ref().map(|source| format!(" ({source})"));
        field("policy of", &format!("{}{}", policy.author, source.unwrap_or_default()));
        field("  allow", &policy.allow.join(", "));
        if !policy.deny.is_empty() {
            field("  deny", &policy.deny.join(", "));
        }
    }
    text
}

fn published(port: &PublishedPortInfo) -> String {
    let PublishedPortInfo { host_ip, host_port, guest_port } = port;
    match host_port {
        0 => format!("any free port of {host_ip} to {guest_port}, chosen at the start"),
        _ => format!("{host_ip}:{host_port} to {guest_port}"),
    }
}

fn reap_text(report: &ReapReport) -> String {
    let deleted = report.deleted_vm_ids.iter().map(|id| format!("{id} is deleted\n"));
    deleted.collect::<String>() + &format!("{} VMs deleted\n", report.count)
}

fn deleted_text(vm: &Cleanup) -> String {
    format!("{} is deleted\n", vm.vm_id)
}

fn seconds_left(vm: &VmInfo) -> u64 {
    vm.time_left().as_secs()
}

#[cfg(test)]
mod tests {
    use pyro_core::{ExecutionMode, VmState};

    use super::*;

    #[test]
    fn a_note_forges_no_line() {
        let note = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let vm = VmInfo {
            vm_id: "0123456789ab".to_owned(),
            environment: "debian:12".to_owned(),
            environment_version: "1".to_owned(),
            vcpu_count: 1,
            mem_mib: 1024,
            ttl_seconds: 600,
            created_at: 0.0,
            expires_at: 600.0,
            state: VmState::Started,
            network_enabled: false,
            allow_host_compat: false,
            guest_ip: None,
            tap_name: None,
            execution_mode: ExecutionMode::Guest,
            metadata: [note("a\r", "\u{1b}[31mred\n  ends in        9999 s")].into(),
            accelerator: None,
            network: None,
        };
        let text = info_text(&vm);
        let note = r"  metadata       a\r=\u{1b}[31mred\n  ends in        9999 s";
        assert_eq!(text.lines().last(), Some(note), "{text}");
        assert_eq!(text.matches("\n  ends in").count(), 1, "{text}");
    }
}
