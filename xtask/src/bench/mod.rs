//! `cargo xtask bench`: the numbers of docs/SPECIFICATION.md, measured on this machine.

mod boot;
mod contest;
mod environments;
mod fresh;
mod host;
mod mcp;
mod network;
mod others;
mod plain_qemu;
mod plot;
mod podman;
mod process;
mod python;
mod root_files;
mod runs;
mod series;
mod spares;
mod statistics;
mod table;

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, Subcommand};
use serde_json::Value;

use self::contest::Results;
use self::runs::Extent;
use crate::{prerequisites, workspace};

/// How long runs take, and what users would take instead of pyro; or one of these:
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    runs: Runs,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Time cold boots, split by phase
    Boot {
        /// Boots of each environment
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Time runs through a real MCP server beside the same through the core
    Mcp {
        /// Runs of each
        #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
        /// In VMs that were there before
        #[arg(long)]
        spares: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Time commands in a live VM through Python beside the same through the core
    Python {
        /// Commands of each
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Measure the network of a VM beside QEMU's own and passt
    Network {
        #[command(flatten)]
        extent: Runs,
    },
    /// Measure runs in VMs that were there before, beside clones, podman and bubblewrap
    Spares {
        #[command(flatten)]
        extent: Runs,
    },
    /// Time pulls into an empty store, and measure what they leave there
    Environments {
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Args)]
struct Runs {
    /// Rounds; in each, everything is measured once
    #[arg(long = "runs", value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Measure everything once, with a debug build: shows that it works, and no numbers worth having
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// Also write a plot to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Output {
    /// Also write every sample to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The environments measured: the whole catalog.
const ENVIRONMENTS: [&str; 3] = ["debian:12-base", "debian:12", "debian:12-build"];

/// Where environments for measuring and testing are kept from run to run.
const CACHE: &str = "test-cache";

pub(crate) fn bench(bench: &Bench) -> Result<(), String> {
    let part = match &bench.part {
        None => return bench_runs(&bench.runs),
        Some(Part::Network { extent }) => return bench_network(extent),
        Some(Part::Spares { extent }) => return bench_spares(extent),
        Some(part) => part,
    };
    prerequisites::for_running()?;
    let pyro = Pyro::build(Profile::Release)?;
    let (table, samples, output) = match part {
        Part::Boot { runs, output } => {
            let (table, samples) = boot::measure(&pyro, *runs)?;
            (table, samples, output)
        }
        Part::Mcp { runs, spares, output } => {
            let (table, samples) = mcp::measure(&pyro, *runs, *spares)?;
            (table, samples, output)
        }
        Part::Python { runs, output } => {
            let (table, samples) = python::measure(&pyro, *runs)?;
            (table, samples, output)
        }
        Part::Network { .. } | Part::Spares { .. } => unreachable!("it has been done"),
        Part::Environments { output } => {
            let (table, samples) = environments::measure(&pyro)?;
            (table, samples, output)
        }
    };
    println!("\n{}\n\n{table}", host::describe());
    let json = serde_json::json!({ "host": host::facts(), "samples": samples });
    output.write(&json)
}

/// Benchmarks that show only that they work, with their files in the target directory.
pub(crate) fn smoke() -> Result<(), String> {
    let target = workspace::target()?;
    let quick = |name: &str| Runs {
        rounds: 1,
        quick: true,
        svg: Some(target.join(format!("bench-{name}quick.svg"))),
        output: Output { json: Some(target.join(format!("bench-{name}quick.json"))) },
    };
    bench_runs(&quick(""))?;
    bench_network(&quick("network-"))?;
    bench_spares(&quick("spares-"))
}

fn bench_runs(runs: &Runs) -> Result<(), String> {
    prerequisites::for_benchmark()?;
    let (pyro, extent) = runs.prepare(Extent::quick, Extent::full)?;
    runs.show(&runs::measure(&pyro, &extent)?)
}

fn bench_network(runs: &Runs) -> Result<(), String> {
    prerequisites::for_network_benchmark()?;
    let (pyro, extent) = runs.prepare(network::Extent::quick, network::Extent::full)?;
    runs.show(&network::measure(&pyro, &extent)?)
}

fn bench_spares(runs: &Runs) -> Result<(), String> {
    prerequisites::for_benchmark()?;
    let (pyro, extent) = runs.prepare(spares::Extent::quick, spares::Extent::full)?;
    runs.show(&spares::measure(&pyro, &extent)?)
}

impl Runs {
    /// What is measured, and how much of it.
    fn prepare<E>(&self, quick: fn() -> E, full: fn(u32) -> E) -> Result<(Pyro, E), String> {
        if self.quick {
            Ok((Pyro::build(Profile::Debug)?, quick()))
        } else {
            Ok((Pyro::build(Profile::Release)?, full(self.rounds)))
        }
    }

    fn show(&self, results: &Results) -> Result<(), String> {
        println!("\n{}\n\n{}", host::describe(), results.table);
        if let Some(path) = &self.svg {
            fs_err::write(path, &results.plot).map_err(|error| error.to_string())?;
        }
        self.output.write(&results.json)
    }
}

impl Output {
    fn write(&self, json: &Value) -> Result<(), String> {
        let Some(path) = &self.json else { return Ok(()) };
        fs_err::write(path, format!("{json:#}\n")).map_err(|error| error.to_string())
    }
}

#[derive(Debug, Clone, Copy)]
enum Profile {
    /// As the tests have it, so that nothing has to be built for a smoke test.
    Debug,
    Release,
}

/// A build of pyro, and a place for its data that is not the user's.
#[derive(Debug)]
struct Pyro {
    executable: PathBuf,
    target: PathBuf,
}

impl Pyro {
    fn build(profile: Profile) -> Result<Self, String> {
        let (options, directory): (&[&str], _) = match profile {
            Profile::Debug => (&[], "debug"),
            Profile::Release => (&["--release"], "release"),
        };
        let mut build = workspace::cargo();
        build.args(["build", "--locked", "--package=pyro-cli", "--package=pyro-core"]);
        build.args(["--package=pyro-mcp-server", "--bin=pyro"]).args(options);
        build.args(["--example=exec_in_a_live_vm", "--example=exec_on_request"]);
        build.arg("--example=vm_run_overhead");
        crate::steps::run(&mut build)?;
        let target = workspace::target()?;
        Ok(Self { executable: target.join(directory).join("pyro"), target })
    }

    /// An example of one of our crates.
    fn example(&self, name: &str) -> Command {
        self.with_cache(&self.executable.with_file_name(format!("examples/{name}")), CACHE)
    }

    /// A command that keeps its environments in `cache`, below the target directory.
    fn command(&self, cache: &str) -> Command {
        self.with_cache(&self.executable, cache)
    }

    fn with_cache(&self, program: &Path, cache: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("PYRO_ENVIRONMENT_CACHE_DIR", self.target.join(cache))
            .env("PYRO_STATE_DIR", self.target.join("test-state"));
        command
    }

    /// What its VMs run on, so that others do as well.
    fn accelerator(&self) -> Result<&'static str, String> {
        let report = workspace::output(self.command(CACHE).args(["doctor", "--json"]))?;
        let report: Value = serde_json::from_str(&report)
            .map_err(|error| format!("pyro doctor prints no JSON: {error}"))?;
        match report["runtime"]["accelerator"].as_str() {
            Some("kvm") => Ok("kvm"),
            Some("tcg") => Ok("tcg"),
            other => Err(format!("pyro doctor names no accelerator, but {other:?}")),
        }
    }

    /// Pulls `environment` into `cache`; gives what `pyro env pull --json` prints.
    fn pull(&self, cache: &str, environment: &str) -> Result<Value, String> {
        let mut pull = self.command(cache);
        let text = workspace::output(pull.args(["env", "pull", "--json", environment]))?;
        serde_json::from_str(&text).map_err(|error| format!("pull prints no JSON: {error}"))
    }
}
