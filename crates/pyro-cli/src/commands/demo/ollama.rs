//! `pyro demo ollama`: a model that runs a command in a VM, line by line.

use std::collections::HashSet;
use std::io;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyro_core::{EndpointSettings, MemoryMib, PinOptions, PyroError, Timeout};
use pyro_mcp_server::{Pins, Profile, Server};
use tokio::sync::Notify;

use crate::chat::{Conversation, Endpoint, Event, Tally};
use crate::demo_arguments::OllamaArguments;
use crate::terminal::{self, BOLD, GREEN, RED, escaped};
use crate::{commands::Ended, interrupt};

/// What the model is asked: something that it can only know by running a command.
const TASK: &str = "Which version of git does the environment debian:12 have? Call vm_run with environment debian:12 and \
                    command `git --version`, and answer with the version.";

/// Longer commands than this are no part of a demonstration.
const COMMAND_SECONDS_MAX: f64 = 120.0;

/// Nor do they need more than this. Whoever serves the model decides what it calls.
const MEMORY_MIB_MAX: i64 = 4096;

/// Of an outcome's lines, unless all is to be seen.
const LINES_SHOWN_MAX: usize = 8;

/// Of a line's characters, likewise.
const CHARACTERS_SHOWN_MAX: usize = 400;

pub(super) fn execute(arguments: &OllamaArguments) -> ExitCode {
    let begin = Instant::now();
    let log = Log::new(arguments.verbose);
    let mut tally = Tally::default();
    let ended = converse_until_interrupted(arguments, &log, &mut tally);
    let status = match &ended {
        Ok(Ended::ByItself(Ok(()))) => format!("{GREEN}ok{GREEN:#}"),
        Ok(Ended::BySignal(_)) => format!("{RED}interrupted{RED:#}"),
        Ok(Ended::ByItself(Err(_))) | Err(_) => format!("{RED}failed{RED:#}"),
    };
    log.print("summary", &format!("status={status} {}", summary(&tally, begin.elapsed())));
    let printed = log.printed.into_inner().unwrap_or_else(PoisonError::into_inner);
    match ended {
        _ if printed.is_err() => terminal::exit_code(printed, ExitCode::FAILURE, 1),
        Ok(Ended::ByItself(Ok(()))) => ExitCode::SUCCESS,
        Ok(Ended::BySignal(signal)) => crate::commands::ended_by_signal(signal, false),
        Ok(Ended::ByItself(Err(failure))) | Err(failure) => {
            terminal::fail(&failure, false);
            ExitCode::FAILURE
        }
    }
}

fn converse_until_interrupted(
    arguments: &OllamaArguments,
    log: &Log,
    tally: &mut Tally,
) -> Result<Ended<Result<(), PyroError>>, PyroError> {
    let deadline = Timeout::from_seconds(arguments.timeout_seconds)?;
    let settings = EndpointSettings::from_environment()?;
    let endpoint = Endpoint::new(&arguments.base_url, &arguments.model, deadline, &settings)?;
    let pins = Pins {
        timeout_max: Timeout::from_seconds(COMMAND_SECONDS_MAX)?,
        memory_max: MemoryMib::new(MEMORY_MIB_MAX)?,
        network: Pins::network(&PinOptions { network: false, ..PinOptions::default() })?,
        ..Pins::default()
    };
    // Two tools: the schemas of all would fill the context that Ollama gives a small model.
    let server = Server::new(crate::commands::pyro(None)?, pins, Profile::Run);
    log.print(
        "demo",
        &format!("{} at {}", escaped(endpoint.model()), escaped(endpoint.base_url())),
    );
    if endpoint.withholds_key() {
        log.print("demo", "OPENAI_API_KEY is not sent: the URL is without encryption");
    }
    let tell = |event: Event<'_>| log.tell(event);
    crate::commands::block_on(async {
        let mut conversation = Conversation::new(&endpoint, &server, &tell);
        let ended = tokio::select! {
            outcome = conversation.hold(TASK, tally) => Ended::ByItself(outcome),
            signal = interrupt::interrupted() => Ended::BySignal(signal),
            () = log.unread.notified() => Ended::BySignal(rustix::process::Signal::PIPE.as_raw()),
        };
        server.settle().await;
        ended
    })
}

fn summary(tally: &Tally, duration: Duration) -> String {
    let Tally { rounds, calls, executed } = tally;
    let (exit_code, mode) = match executed {
        Some(executed) => (executed.exit_code.to_string(), executed.mode.as_str()),
        None => ("none".to_owned(), "none"),
    };
    let seconds = duration.as_secs_f64();
    format!(
        "exit_code={exit_code} execution_mode={mode} tool_calls={calls} rounds={rounds} seconds={seconds:.1}"
    )
}

/// Lines that all begin with who speaks, so that nobody can speak for somebody else.
struct Log {
    is_verbose: bool,
    /// Of the call that is carried out, those that were told.
    steps: Mutex<HashSet<String>>,
    printed: Mutex<io::Result<()>>,
    /// Told when nothing can be printed any more.
    unread: Notify,
}

impl Log {
    fn new(is_verbose: bool) -> Self {
        let (steps, printed) = (Mutex::default(), Mutex::new(Ok(())));
        Self { is_verbose, steps, printed, unread: Notify::new() }
    }

    fn tell(&self, event: Event<'_>) {
        match event {
            Event::Task(task) => self.print("user", task),
            Event::Message(message) if self.is_verbose => {
                self.print("message", &escaped(&message.to_string()));
            }
            Event::Message(_) => {}
            Event::Said { text, after } => self.paragraph("model", text, after),
            Event::Calls { name, arguments, after } => {
                let call = format!("calls {} {}", self.cut(name), self.cut(arguments));
                self.print("model", &format!("{call} ({})", seconds(after)));
                self.steps.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            Event::Step(step) => {
                // How far a step is stands in brackets behind it, and changes all the time.
                let name = step.split(" (").next().unwrap_or_default().to_owned();
                let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
                if steps.insert(name) {
                    self.print("vm", &escaped(step));
                }
            }
            Event::Outcome { text, after } => self.paragraph("tool", text, after),
        }
    }

    fn paragraph(&self, who: &str, text: &str, after: Duration) {
        let count_max = if self.is_verbose { usize::MAX } else { LINES_SHOWN_MAX };
        let lines: Vec<_> = text.lines().collect();
        let shown = lines.len().min(count_max);
        for (number, line) in lines[..shown].iter().enumerate() {
            let is_last = number + 1 == lines.len();
            let time = if is_last { format!(" ({})", seconds(after)) } else { String::new() };
            self.print(who, &(self.cut(line) + &time));
        }
        if shown < lines.len() {
            let more = lines.len() - shown;
            self.print(who, &format!("… {more} more lines ({})", seconds(after)));
        }
    }

    /// What a model or a guest wrote, in one line, not all of a long one.
    fn cut(&self, text: &str) -> String {
        match text.char_indices().nth(CHARACTERS_SHOWN_MAX) {
            Some((end, _)) if !self.is_verbose => format!("{}…", escaped(&text[..end])),
            Some(_) | None => escaped(text),
        }
    }

    fn print(&self, who: &str, text: &str) {
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        if printed.is_err() {
            return;
        }
        *printed = terminal::print(&format!("{BOLD}[{who}]{BOLD:#} {text}\n"));
        if printed.is_err() {
            self.unread.notify_one();
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use crate::chat::Executed;

    use super::*;

    #[test]
    fn the_summary_says_what_the_last_command_came_to() {
        let duration = Duration::from_millis(1234);
        let nothing = "exit_code=none execution_mode=none tool_calls=0 rounds=0 seconds=1.2";
        assert_eq!(summary(&Tally::default(), duration), nothing);
        let executed = Some(Executed { exit_code: 3, mode: "guest".to_owned() });
        let tally = Tally { rounds: 2, calls: 1, executed };
        let all = "exit_code=3 execution_mode=guest tool_calls=1 rounds=2 seconds=1.2";
        assert_eq!(summary(&tally, duration), all);
    }
}
