//! The loop: a model replies, what it calls is called, and it reads what came of that, until it answers in words.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use pyro_core::{ErrorKind, PyroError};
use pyro_mcp_server::{Server, ToolDescription, ToolOutcome};
use serde_json::{Value, json};

use super::endpoint::Endpoint;
use super::reply::{Reply, WantedCall};
use super::tool_call;

/// Replies at most. Two are enough for one call; the rest is for a model that has to try again.
const ROUNDS_MAX: u32 = 8;

/// Calls at most that one reply can have carried out.
const CALLS_AT_ONCE_MAX: usize = 4;

/// The tool that a conversation is about.
const TOOL: &str = "vm_run";

const SYSTEM: &str = "You carry out tasks with tools. Commands run in disposable Linux VMs, so nothing can break. Call a \
                      tool instead of guessing; when you know the result, answer in one short sentence.";

const REMINDER: &str =
    "You have not called the tool vm_run yet. Call it now, and answer with what it gives.";

/// Something that happens in a conversation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'a> {
    /// What the model is asked.
    Task(&'a str),
    /// A whole message, as it is sent or was received.
    Message(&'a Value),
    /// What the model says beside its calls, or to answer.
    Said {
        text: &'a str,
        after: Duration,
    },
    /// What the model calls. The arguments are as they are called with, or as they were written.
    Calls {
        name: &'a str,
        arguments: &'a str,
        after: Duration,
    },
    /// What is being done for a call.
    Step(&'a str),
    Outcome {
        text: &'a str,
        after: Duration,
    },
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) rounds: u32,
    pub(crate) calls: u32,
    /// Of the last command that was carried out.
    pub(crate) executed: Option<Executed>,
}

/// How a command ended, and where it was executed.
#[derive(Debug, PartialEq)]
pub(crate) struct Executed {
    pub(crate) exit_code: i64,
    pub(crate) mode: String,
}

pub(crate) struct Conversation<'a> {
    endpoint: &'a Endpoint,
    server: &'a Server,
    tools: Vec<ToolDescription>,
    tell: &'a (dyn Fn(Event<'_>) + Send + Sync),
    messages: Vec<Value>,
    /// Of calls; some endpoints give the same twice.
    ids: HashSet<String>,
}

impl<'a> Conversation<'a> {
    pub(crate) fn new(
        endpoint: &'a Endpoint,
        server: &'a Server,
        tell: &'a (dyn Fn(Event<'_>) + Send + Sync),
    ) -> Self {
        let tools = server.tools();
        Self { endpoint, server, tools, tell, messages: Vec::new(), ids: HashSet::new() }
    }

    /// Has the model carry out `task`. Fails where the endpoint does, and with `not_available` where the model does not
    /// call the tool, or never stops calling.
    pub(crate) async fn hold(&mut self, task: &str, tally: &mut Tally) -> Result<(), PyroError> {
        (self.tell)(Event::Task(task));
        self.push(json!({ "role": "system", "content": SYSTEM }));
        self.push(json!({ "role": "user", "content": task }));
        let tools: Value = self.tools.iter().map(function).collect();
        let mut is_reminded = false;
        while tally.rounds < ROUNDS_MAX {
            tally.rounds += 1;
            let begin = Instant::now();
            let Reply { text, mut calls } = self.endpoint.reply(&self.messages, &tools).await?;
            let after = begin.elapsed();
            if calls.is_empty()
                && let Some(call) =
                    tool_call::written_as_text(&text, |name| self.find(name).is_some())
            {
                calls.push(call);
            } else if !text.trim().is_empty() {
                (self.tell)(Event::Said { text: text.trim(), after });
            }
            if !calls.is_empty() {
                self.carry_out(&text, calls, after, tally).await;
                continue;
            }
            if tally.executed.is_some() && !text.trim().is_empty() {
                return Ok(());
            }
            if tally.executed.is_none() && is_reminded {
                return Err(self.never_called());
            }
            is_reminded = true;
            self.push(json!({ "role": "assistant", "content": text }));
            let reminder = if tally.executed.is_some() { ANSWER_REMINDER } else { REMINDER };
            self.push(json!({ "role": "user", "content": reminder }));
        }
        Err(self.never_ends())
    }

    /// Carries out what a reply asks for, and keeps both for the model to read.
    async fn carry_out(
        &mut self,
        text: &str,
        calls: Vec<WantedCall>,
        after: Duration,
        tally: &mut Tally,
    ) {
        let mut echoes = Vec::new();
        let mut results = Vec::new();
        for (number, call) in calls.into_iter().enumerate() {
            let id = self.own_id(call.id.as_deref(), tally.calls);
            tally.calls += 1;
            let (arguments, result) = if number < CALLS_AT_ONCE_MAX {
                self.call(&call, after, tally).await
            } else {
                (json!({}), format!("error: at most {CALLS_AT_ONCE_MAX} calls at once"))
            };
            echoes.push(json!({
                "id": id,
                "type": "function",
                // Endpoints read their models' own words again, and refuse what is no object.
                "function": { "name": harmless(&call.name), "arguments": arguments.to_string() },
            }));
            results.push(json!({ "role": "tool", "tool_call_id": id, "content": result }));
        }
        self.push(json!({ "role": "assistant", "content": text, "tool_calls": echoes }));
        for result in results {
            self.push(result);
        }
    }

    /// One call: the arguments it was made with, and what the model reads of it.
    async fn call(&self, call: &WantedCall, after: Duration, tally: &mut Tally) -> (Value, String) {
        let schema = self.find(&call.name).map_or(&Value::Null, |tool| &tool.input_schema);
        let arguments = tool_call::arguments(&call.arguments, schema);
        let shown = match &arguments {
            Ok(arguments) => Value::Object(arguments.clone()).to_string(),
            Err(_) => call.arguments.to_string(),
        };
        (self.tell)(Event::Calls { name: &call.name, arguments: &shown, after });
        let begin = Instant::now();
        let (arguments, text) = match arguments {
            Ok(arguments) => {
                let step = |step: &str| (self.tell)(Event::Step(step));
                let outcome = self.server.call(&call.name, arguments.clone(), &step).await;
                tally.executed = executed(&outcome).or(tally.executed.take());
                (Value::Object(arguments), outcome.text)
            }
            Err(error) => (json!({}), error),
        };
        (self.tell)(Event::Outcome { text: &text, after: begin.elapsed() });
        (arguments, text)
    }

    fn find(&self, name: &str) -> Option<&ToolDescription> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    fn push(&mut self, message: Value) {
        (self.tell)(Event::Message(&message));
        self.messages.push(message);
    }

    /// The id that a call goes by, which is the model's if no other call has it.
    fn own_id(&mut self, wanted: Option<&str>, number: u32) -> String {
        let id = wanted.map_or_else(|| format!("call_{number}"), str::to_owned);
        if self.ids.insert(id.clone()) { id } else { format!("{id}_{number}") }
    }

    fn never_called(&self) -> PyroError {
        let message = format!("{} answers without calling {TOOL}", self.endpoint.model());
        PyroError::new(ErrorKind::NotAvailable, message).hint(
            "not every model can call tools: name one that can, for instance `--model llama3.2:3b`",
        )
    }

    fn never_ends(&self) -> PyroError {
        let message = format!("{} has no answer after {ROUNDS_MAX} replies", self.endpoint.model());
        PyroError::new(ErrorKind::NotAvailable, message).hint(
            "`--verbose` shows all that was said; a larger model may do better: name it with `--model`",
        )
    }
}

const ANSWER_REMINDER: &str = "Answer now, in one short sentence.";

/// A tool in the words of the API.
fn function(tool: &ToolDescription) -> Value {
    json!({
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.input_schema,
        },
    })
}

fn executed(outcome: &ToolOutcome) -> Option<Executed> {
    let exit_code = outcome.object["exit_code"].as_i64()?;
    let mode = outcome.object["execution_mode"].as_str()?.to_owned();
    Some(Executed { exit_code, mode })
}

/// A name that endpoints take, whatever the model made up.
fn harmless(name: &str) -> String {
    /// What `api.openai.com` takes.
    const NAME_CHARACTERS_MAX: usize = 64;
    let is_usual = |character: char| character.is_ascii_alphanumeric() || "_-".contains(character);
    let characters =
        name.chars().map(|character| if is_usual(character) { character } else { '_' });
    let name: String = characters.take(NAME_CHARACTERS_MAX).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_made_up_is_one_that_endpoints_take() {
        assert_eq!(harmless("vm_run"), "vm_run");
        assert_eq!(harmless("functions.vm run\n"), "functions_vm_run_");
        assert_eq!(harmless(""), "unknown");
        assert_eq!(harmless(&"ä".repeat(100)), "_".repeat(64));
    }
}
