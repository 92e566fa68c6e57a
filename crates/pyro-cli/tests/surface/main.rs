//! The `pyro` executable without any VM: what it prints, where, and how it exits.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod completions;

mod demo;

mod environments;

mod errors;

mod help;

mod host;

mod mcp;

mod pages;

mod terminal;

use std::process::Command;

use serde_json::Value;

/// What became of one call.
#[derive(Debug)]
struct Outcome {
    exit_code: i32,
    stdout: String,
    stderr: String,
}

/// Calls `pyro` as a user with an empty home.
fn pyro(arguments: &[&str]) -> Outcome {
    pyro_with(&[], arguments)
}

/// The same with environment variables.
fn pyro_with(variables: &[(&str, &str)], arguments: &[&str]) -> Outcome {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pyro"));
    command
        .args(arguments)
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", "/usr/bin:/bin")
        .envs(variables.iter().copied());
    Outcome::of(&mut command)
}

impl Outcome {
    fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self {
            exit_code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The standard output of a call that succeeded and had nothing else to say.
    fn success(&self) -> &str {
        assert_eq!((self.exit_code, self.stderr.as_str()), (0, ""), "{self:#?}");
        &self.stdout
    }

    /// The one JSON document on standard output, with nothing beside it.
    fn json(&self) -> Value {
        assert_eq!(self.stderr, "", "{self:#?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}
