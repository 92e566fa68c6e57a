//! `cargo xtask bench`: the numbers of docs/SPECIFICATION.md, measured on this machine.

mod boot;
mod environments;
mod host;
mod statistics;

use std::path::PathBuf;
use std::process::Command;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::{prerequisites, workspace};

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Time cold boots, split by phase
    Boot {
        /// Boots of each environment
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Time pulls into an empty store, and measure what they leave there
    Environments {
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Also write every sample to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The environments measured: the whole catalog.
const ENVIRONMENTS: [&str; 3] = ["debian:12-base", "debian:12", "debian:12-build"];

pub(crate) fn bench(bench: &Bench) -> Result<(), String> {
    prerequisites::for_running()?;
    let pyro = Pyro::build()?;
    let (table, samples, output) = match bench {
        Bench::Boot { runs, output } => {
            let (table, samples) = boot::measure(&pyro, *runs)?;
            (table, samples, output)
        }
        Bench::Environments { output } => {
            let (table, samples) = environments::measure(&pyro)?;
            (table, samples, output)
        }
    };
    println!("\n{}\n\n{table}", host::describe());
    if let Some(path) = &output.json {
        let json = serde_json::json!({ "host": host::facts(), "samples": samples });
        fs_err::write(path, format!("{json:#}\n")).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The release build, and a place for its data that is not the user's.
struct Pyro {
    executable: PathBuf,
    target: PathBuf,
}

impl Pyro {
    fn build() -> Result<Self, String> {
        let mut build = workspace::cargo();
        build.args(["build", "--release", "--package=pyro-cli"]);
        crate::steps::run(&mut build)?;
        let target = workspace::target()?;
        Ok(Self { executable: target.join("release/pyro"), target })
    }

    /// A command that keeps its environments in `cache`, below the target directory.
    fn command(&self, cache: &str) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .env("PYRO_ENVIRONMENT_CACHE_DIR", self.target.join(cache))
            .env("PYRO_STATE_DIR", self.target.join("test-state"));
        command
    }

    /// Pulls `environment` into `cache`; gives what `pyro env pull --json` prints.
    fn pull(&self, cache: &str, environment: &str) -> Result<Value, String> {
        let mut pull = self.command(cache);
        let text = workspace::output(pull.args(["env", "pull", "--json", environment]))?;
        serde_json::from_str(&text).map_err(|error| format!("pull prints no JSON: {error}"))
    }
}
