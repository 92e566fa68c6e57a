//! What the SDK adds to a command in a live VM, beside the same command through the core: two processes that take
//! turns in one VM.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::statistics::{median, minimum};
use super::{CACHE, Pyro};
use crate::{python, workspace};

const ENVIRONMENT: &str = "debian:12-base";

/// The least a command can do, so that what is timed is what is around it.
const COMMAND: &str = "true";

/// Executions of each that are not counted: the first finds cold caches.
const WARMING: u32 = 3;

pub(super) fn measure(pyro: &Pyro, runs: u32) -> Result<(String, Value), String> {
    pyro.pull(CACHE, ENVIRONMENT)?;
    let mut interpreter = python::interpreter()?;
    let mut create = pyro.command(CACHE);
    let id = workspace::output(create.args(["vm", "create", "--start", ENVIRONMENT]))?;
    let id = id.trim();
    let measured = take_turns(pyro, &mut interpreter, id, runs);
    let mut delete = pyro.command(CACHE);
    workspace::output(delete.args(["vm", "delete", id]))?;
    let (core, sdk) = measured?;
    Ok((table(&core, &sdk), json!({ "core_ms": core, "sdk_ms": sdk })))
}

fn take_turns(
    pyro: &Pyro,
    interpreter: &mut Command,
    id: &str,
    runs: u32,
) -> Result<(Vec<f64>, Vec<f64>), String> {
    let mut example = pyro.example("exec_on_request");
    let mut core = Player::start(example.arg(&pyro.executable).args([id, COMMAND]))?;
    let script = workspace::root().join("python/benchmarks/exec_on_request.py");
    // The VM is in the state directory of the benchmark, not in that of the package's tests.
    let here = pyro.command(CACHE);
    for (name, value) in here.get_envs() {
        interpreter.env(name, value.unwrap_or_default());
    }
    let mut sdk = Player::start(interpreter.arg(script).args([id, COMMAND]))?;
    let (mut core_ms, mut sdk_ms) = (Vec::new(), Vec::new());
    for round in 0..WARMING + runs {
        // Each begins every other round, so that neither profits from always following the other.
        let (one, other) = if round % 2 == 0 {
            let core = core.play()?;
            (core, sdk.play()?)
        } else {
            let sdk = sdk.play()?;
            (core.play()?, sdk)
        };
        if round >= WARMING {
            core_ms.push(one);
            sdk_ms.push(other);
        }
    }
    Ok((core_ms, sdk_ms))
}

/// A process that does one thing for each line, and answers with milliseconds.
struct Player {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Player {
    fn start(command: &mut Command) -> Result<Self, String> {
        let name = workspace::name(command);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(format!("{name} has no pipes"));
        };
        Ok(Self { process, input, output: BufReader::new(output) })
    }

    fn play(&mut self) -> Result<f64, String> {
        self.input.write_all(b"\n").map_err(|error| error.to_string())?;
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(|error| error.to_string())?;
        line.trim().parse().map_err(|_| format!("no number of milliseconds, but {line:?}"))
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn table(core: &[f64], sdk: &[f64]) -> String {
    // Pair by pair, because noise meets both of a pair alike.
    let added: Vec<_> = sdk.iter().zip(core).map(|(sdk, core)| sdk - core).collect();
    let mut text = format!("{:<46}{:>10}{:>10}", "ms", "median", "minimum");
    let rows = [("a command in a live VM through the core", core), ("through Python", sdk)];
    for (name, samples) in rows {
        text += &format!("\n{name:<46}{:>10.2}{:>10.2}", median(samples), minimum(samples));
    }
    text + &format!("\n{:<46}{:>10.2}", "difference of a pair", median(&added))
}
