//! Answers as texts, for clients that show a model nothing else. Short: whatever is as usual goes without saying.

use pyro_core::{
    EnvironmentList, ExecOutcome, ExecutionMode, LogPart, NetworkInfo, PyroError, ReapReport,
    RunList, RunState, VmInfo, VmList,
};

use crate::schema::OUTPUT_BYTES_MAX;

/// Of refusals that a text tells.
const REFUSALS_MAX: usize = 5;

/// A command's output, and below it what is remarkable about its end. `run_id` is by which the rest of a long output
/// is found, if it is.
pub(crate) fn executed(outcome: &ExecOutcome, run_id: Option<u32>) -> String {
    let mut text = outcome.stdout.clone();
    if !outcome.stderr.is_empty() {
        begin_line(&mut text);
        text += "[stderr]\n";
        text += &outcome.stderr;
    }
    if let Some(end) = ending(outcome, run_id) {
        begin_line(&mut text);
        text += &end;
    }
    text
}

fn ending(outcome: &ExecOutcome, run_id: Option<u32>) -> Option<String> {
    let mut remarks = Vec::new();
    if outcome.timed_out {
        remarks.push("timed out".to_owned());
    }
    if outcome.out_of_memory {
        remarks.push("out of memory".to_owned());
    }
    let is_silent = outcome.stdout.is_empty() && outcome.stderr.is_empty();
    let is_usual = remarks.is_empty() && outcome.exit_code == 0;
    if !is_usual || is_silent {
        remarks.push(format!("exit code {}", outcome.exit_code));
        remarks.push(format!("{} ms", outcome.duration_ms));
    }
    if is_silent {
        remarks.push("no output".to_owned());
    }
    let mut lines = Vec::new();
    if !remarks.is_empty() {
        lines.push(format!("[{}]", remarks.join(", ")));
    }
    if outcome.execution_mode == ExecutionMode::HostCompat {
        lines.push("[ran on the host itself: no VM could be had]".to_owned());
    }
    if outcome.stdout_truncated || outcome.stderr_truncated {
        lines.push(truncation(outcome, run_id));
    }
    lines.extend(refusals(outcome));
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// What the network refused: the first ones, because a program that tries everything fills a conversation.
fn refusals(outcome: &ExecOutcome) -> Vec<String> {
    let list = &outcome.network_refusals;
    let mut lines: Vec<_> =
        list.iter().take(REFUSALS_MAX).map(|refusal| format!("[{}]", refusal.message)).collect();
    let more = list.len().saturating_sub(REFUSALS_MAX) as u64
        + u64::from(outcome.network_refusals_left_out);
    if more > 0 {
        lines.push(format!("[{more} more refused by the network]"));
    }
    lines
}

fn truncation(outcome: &ExecOutcome, run_id: Option<u32>) -> String {
    let streams = [
        ("stdout", outcome.stdout_truncated, outcome.stdout_bytes),
        ("stderr", outcome.stderr_truncated, outcome.stderr_bytes),
    ];
    let cut = streams.iter().filter(|(_, truncated, _)| *truncated);
    let cut: Vec<_> = cut.map(|(name, _, bytes)| format!("{name} has {bytes} bytes")).collect();
    let rest = match run_id {
        Some(run_id) => format!("the rest is in vm_logs, run_id {run_id}"),
        None => format!(
            "for the rest raise output_bytes_max (at most {OUTPUT_BYTES_MAX}) or filter in the command"
        ),
    };
    format!("[output cut: {}; {rest}]", cut.join(", "))
}

/// A part of what a command wrote, and where the next one begins.
pub(crate) fn log(part: &LogPart) -> String {
    let mut text = part.text.clone();
    let remark = match (part.next_offset, part.state) {
        (Some(next), RunState::Running) => {
            format!("[the command is running; more may come at offset {next}]")
        }
        (Some(next), RunState::Ended | RunState::Failed) => {
            format!("[{next} of {} bytes; more at offset {next}]", part.kept_bytes)
        }
        (None, _) => match part.total_bytes.filter(|total| *total > part.kept_bytes) {
            Some(total) => {
                format!("[only the first {} of {total} bytes are kept]", part.kept_bytes)
            }
            None if part.text.is_empty() => "[nothing more]".to_owned(),
            None => return text,
        },
    };
    begin_line(&mut text);
    text + &remark
}

/// The commands of a VM, a line each.
pub(crate) fn runs(list: &RunList) -> String {
    let lines = list.runs.iter().map(|run| {
        let end = match (run.state, run.exit_code) {
            (RunState::Running, _) => "running".to_owned(),
            (_, Some(code)) => format!("exit code {code}"),
            (_, None) => "failed".to_owned(),
        };
        format!("run {} ({end}): {}", run.run_id, run.command)
    });
    let lines: Vec<_> = lines.collect();
    if lines.is_empty() { "there was no command".to_owned() } else { lines.join("\n") }
}

fn begin_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

pub(crate) fn environments(list: &EnvironmentList) -> String {
    let lines = list.environments.iter().map(|entry| {
        let state = if entry.installed { "installed" } else { "fetched on first use" };
        format!("{} ({state}): {}", entry.name, entry.description)
    });
    lines.collect::<Vec<_>>().join("\n")
}

pub(crate) fn vms(list: &VmList) -> String {
    match list.vms.as_slice() {
        [] => "there is no VM".to_owned(),
        vms => vms.iter().map(vm).collect::<Vec<_>>().join("\n"),
    }
}

pub(crate) fn vm(vm: &VmInfo) -> String {
    format!(
        "vm {} is {}: {}, vCPUs: {}, {} MiB, expires in {} s",
        vm.vm_id,
        vm.state.name(),
        vm.environment,
        vm.vcpu_count,
        vm.mem_mib,
        vm.time_left().as_secs()
    )
}

pub(crate) fn network(info: &NetworkInfo) -> String {
    let network = match info {
        NetworkInfo::Off(none) => {
            return format!("vm {} has no network: {}", none.vm_id, none.reason);
        }
        NetworkInfo::On(network) => network,
    };
    let mut text = format!("vm {} has a network", network.vm_id);
    for policy in &network.policy {
        text += &format!("\n{} allows {}", policy.author, policy.allow.join(", "));
        if !policy.deny.is_empty() {
            text += &format!("; denies {}", policy.deny.join(", "));
        }
    }
    for port in &network.published {
        text += &format!("\n{}:{} leads to port {}", port.host_ip, port.host_port, port.guest_port);
    }
    text
}

pub(crate) fn reaped(report: &ReapReport) -> String {
    match report.deleted_vm_ids.as_slice() {
        [] => "no VM was expired".to_owned(),
        ids => format!("deleted: {}", ids.join(", ")),
    }
}

pub(crate) fn failure(failure: &PyroError) -> String {
    let mut text = format!("error ({}): {}", failure.kind.code(), failure.message);
    for cause in &failure.causes {
        text += &format!("\ncaused by: {cause}");
    }
    for hint in &failure.hints {
        text += &format!("\nhint: {hint}");
    }
    text
}

#[cfg(test)]
mod tests {
    use pyro_core::{NetworkRefusal, RefusalReason, RefusedProtocol};

    use super::*;

    fn outcome() -> ExecOutcome {
        ExecOutcome {
            vm_id: "0123456789ab".to_owned(),
            environment: "debian:12".to_owned(),
            environment_version: "1".to_owned(),
            command: "true".to_owned(),
            stdout: "out".to_owned(),
            stderr: String::new(),
            exit_code: 0,
            duration_ms: 41,
            execution_mode: ExecutionMode::Guest,
            timed_out: false,
            stdout_truncated: false,
            stderr_truncated: false,
            stdout_bytes: 3,
            stderr_bytes: 0,
            accelerator: None,
            out_of_memory: false,
            network_refusals: Vec::new(),
            network_refusals_left_out: 0,
        }
    }

    #[test]
    fn a_success_is_its_output() {
        assert_eq!(executed(&outcome(), None), "out");
    }

    #[test]
    fn what_is_remarkable_stands_below_the_output() {
        let stderr = "err\n".to_owned();
        let failed = ExecOutcome { exit_code: 3, stderr, ..outcome() };
        assert_eq!(executed(&failed, None), "out\n[stderr]\nerr\n[exit code 3, 41 ms]");
        let late = ExecOutcome { exit_code: 124, timed_out: true, ..outcome() };
        assert_eq!(executed(&late, None), "out\n[timed out, exit code 124, 41 ms]");
        let silent = ExecOutcome { stdout: String::new(), ..outcome() };
        assert_eq!(executed(&silent, None), "[exit code 0, 41 ms, no output]");
        let host = ExecOutcome { execution_mode: ExecutionMode::HostCompat, ..outcome() };
        assert!(executed(&host, None).contains("on the host itself"));
    }

    #[test]
    fn what_the_network_refused_stands_below_the_output() {
        let refusal = NetworkRefusal {
            protocol: RefusedProtocol::Dns,
            destination: "other.test".to_owned(),
            host: Some("other.test".to_owned()),
            reason: RefusalReason::NotAllowed,
            count: 2,
            message: "looking up other.test was refused".to_owned(),
            allow_with: None,
            summary: String::new(),
        };
        let refused = ExecOutcome { network_refusals: vec![refusal.clone()], ..outcome() };
        assert_eq!(executed(&refused, None), "out\n[looking up other.test was refused]");
        let network_refusals = vec![refusal; 7];
        let refused = ExecOutcome { network_refusals, network_refusals_left_out: 3, ..outcome() };
        let text = executed(&refused, None);
        assert!(text.ends_with("refused]\n[5 more refused by the network]"), "{text}");
        assert_eq!(text.lines().count(), 7);
    }

    #[test]
    fn cut_output_says_how_to_get_the_rest() {
        let cut = ExecOutcome { stdout_truncated: true, stdout_bytes: 99_999, ..outcome() };
        assert_eq!(
            executed(&cut, None),
            "out\n[output cut: stdout has 99999 bytes; for the rest raise output_bytes_max (at most 131072) or \
             filter in the command]"
        );
        let kept = "out\n[output cut: stdout has 99999 bytes; the rest is in vm_logs, run_id 7]";
        assert_eq!(executed(&cut, Some(7)), kept);
    }
}
