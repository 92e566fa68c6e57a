//! What a call is answered with: the object that the command line prints with `--json`, and a text to read.

use pyro_core::{
    Cleanup, EnvironmentList, LogPart, NetworkInfo, PyroError, ReapReport, RunList, RunOutcome,
    VmExecOutcome, VmInfo, VmList,
};
use rmcp::model::{CallToolResult, ContentBlock};
use serde::Serialize;
use serde_json::{Value, json};

use crate::text;

/// Commands of a VM that a list tells.
const RUNS_MAX: usize = 20;

/// Of each command in such a list.
const COMMAND_CHARACTERS_MAX: usize = 200;

/// An answer to a call that was carried out.
#[derive(Debug)]
pub(crate) struct Answer {
    object: Value,
    text: String,
}

impl Answer {
    pub(crate) fn of_run(outcome: &RunOutcome) -> Self {
        Self::new(outcome, text::executed(&outcome.exec, None))
    }

    pub(crate) fn of_exec(outcome: &VmExecOutcome) -> Self {
        Self::new(outcome, text::executed(&outcome.exec, Some(outcome.run_id)))
    }

    /// The latest commands, each cut short: what matters is their numbers.
    pub(crate) fn of_runs(mut list: RunList) -> Self {
        let first = list.runs.len().saturating_sub(RUNS_MAX);
        list.runs.drain(..first);
        for run in &mut list.runs {
            if let Some((end, _)) = run.command.char_indices().nth(COMMAND_CHARACTERS_MAX) {
                run.command.truncate(end);
                run.command.push('…');
            }
        }
        Self::new(&list, text::runs(&list))
    }

    pub(crate) fn of_log(part: &LogPart) -> Self {
        Self::new(part, text::log(part))
    }

    pub(crate) fn of_environments(list: &EnvironmentList) -> Self {
        Self::new(list, text::environments(list))
    }

    pub(crate) fn of_vm(vm: &VmInfo) -> Self {
        Self::new(vm, text::vm(vm))
    }

    pub(crate) fn of_vms(list: &VmList) -> Self {
        Self::new(list, text::vms(list))
    }

    pub(crate) fn of_network(info: &NetworkInfo) -> Self {
        Self::new(info, text::network(info))
    }

    pub(crate) fn of_deletion(deleted: &Cleanup) -> Self {
        Self::new(deleted, format!("vm {} is deleted", deleted.vm_id))
    }

    pub(crate) fn of_reaping(report: &ReapReport) -> Self {
        Self::new(report, text::reaped(report))
    }

    fn new(value: &impl Serialize, text: String) -> Self {
        let object = serde_json::to_value(value).expect("payloads have string keys");
        Self { object, text }
    }

    pub(crate) fn into_result(self) -> CallToolResult {
        let mut result = CallToolResult::success(vec![ContentBlock::text(self.text)]);
        result.structured_content = Some(self.object);
        result
    }

    /// The text, and the object.
    pub(crate) fn into_parts(self) -> (String, Value) {
        (self.text, self.object)
    }
}

/// The answer to a call that was not.
pub(crate) fn failure(failure: &PyroError) -> CallToolResult {
    let (text, object) = failure_parts(failure);
    let mut result = CallToolResult::error(vec![ContentBlock::text(text)]);
    result.structured_content = Some(object);
    result
}

/// Its text, and its object.
pub(crate) fn failure_parts(failure: &PyroError) -> (String, Value) {
    let object = json!({
        "ok": false,
        "error": {
            "code": failure.kind.code(),
            "message": failure.message,
            "causes": failure.causes,
            "hints": failure.hints,
        },
    });
    (text::failure(failure), object)
}
