//! Tools without the protocol: what a model in this process is shown of them, and its calls.

use pyro_core::PyroError;
use serde_json::{Map, Value};

use crate::answer::{self, Answer};
use crate::progress::Narrator;
use crate::server::{Server, interrupted};

/// A tool as a model sees it: the same words that clients of the protocol get.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolDescription {
    pub name: String,
    pub description: String,
    /// A JSON schema of the arguments.
    pub input_schema: Value,
}

/// What a call was answered with.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolOutcome {
    /// For the model to read.
    pub text: String,
    /// The object that the command line prints with `--json`.
    pub object: Value,
    /// The call was not carried out. A command that fails is none of these.
    pub is_failure: bool,
}

impl Server {
    /// The tools there are.
    pub fn tools(&self) -> Vec<ToolDescription> {
        let describe = |tool: &rmcp::model::Tool| ToolDescription {
            name: tool.name.to_string(),
            description: tool.description.as_deref().unwrap_or_default().to_owned(),
            input_schema: Value::Object((*tool.input_schema).clone()),
        };
        self.definitions().iter().map(describe).collect()
    }

    /// Carries a call out; `step` hears of what is being done. When the future is dropped, so is what it does: see
    /// [`settle`](Self::settle).
    pub async fn call(
        &self,
        name: &str,
        arguments: Map<String, Value>,
        step: &(dyn Fn(&str) + Send + Sync),
    ) -> ToolOutcome {
        let narrator = Narrator::new();
        let work = Box::pin(self.carry_out(name, Some(arguments), &narrator));
        let closing = self.closing();
        let outcome = tokio::select! {
            biased;
            () = closing.cancelled() => Err(interrupted()),
            outcome = narrator.follow(step, work) => outcome,
        };
        ToolOutcome::of(outcome)
    }
}

impl ToolOutcome {
    fn of(outcome: Result<Answer, PyroError>) -> Self {
        let is_failure = outcome.is_err();
        let (text, object) = match outcome {
            Ok(answer) => answer.into_parts(),
            Err(failure) => answer::failure_parts(&failure),
        };
        Self { text, object, is_failure }
    }
}
