//! Executes a shell command in a VM that `pyro vm create --start` made, once for each line of its input, and prints
//! the milliseconds of each: the core's half of a comparison with other surfaces.
//!
//! ```sh
//! yes | head -5 | cargo run --package pyro-core --example exec_on_request -- target/debug/pyro $id true
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use std::io::BufRead;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use pyro_core::{CommandText, Config, ErrorKind, ExecRequest, Pyro, PyroError, Streams, VmId};

const USAGE: &str = "usage: exec_on_request PYRO VM_ID COMMAND";

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let [pyro, id, command] = words.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::FAILURE;
    };
    match serve(pyro.into(), id, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure:#?}");
            ExitCode::FAILURE
        }
    }
}

fn serve(pyro: PathBuf, id: &str, command: &str) -> Result<(), PyroError> {
    let broken = |error: std::io::Error| PyroError::from_error(ErrorKind::Internal, &error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(broken)?;
    let pyro = Pyro::new(Config::from_environment(pyro)?);
    let id = VmId::new(id)?;
    for line in std::io::stdin().lock().lines() {
        line.map_err(broken)?;
        let request = ExecRequest::new(CommandText::new(command)?);
        let started = Instant::now();
        let outcome = runtime.block_on(pyro.exec_vm(&id, request, Streams::default()))?;
        let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
        if outcome.exec.exit_code != 0 {
            let problem = format!("`{command}` fails: {}", outcome.exec.stderr);
            return Err(PyroError::new(ErrorKind::InvalidInput, problem));
        }
        println!("{elapsed_ms}");
    }
    Ok(())
}
