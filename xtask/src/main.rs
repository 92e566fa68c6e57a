//! Development tasks: `cargo xtask demo | test | clients | python | tidy | docs | bench | fuzz | dist |
//! man | guest-kernel`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "tasks talk to the developer who started them"
)]

mod bench;

mod clients;

mod demo;

mod fuzz;

mod guest_kernel;

mod man;

mod prerequisites;

mod python;

mod reference;

mod steps;

mod suite;

mod tidy;

mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development tasks of pyro
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what is missing, build pyro, pull `debian:12` and run a command in a VM
    Demo,
    /// Install what is missing, then run every check and every test, real VMs included
    Test,
    /// Run only the tests of the MCP server with the clients that people use
    Clients {
        /// Options of pytest, for instance `-k cancel`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Build, install and test the Python package; options are pytest's
    Python {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Check the rules that no compiler checks: directions, file sizes, links
    Tidy,
    /// Write docs/cli.md from the help of every command
    Docs,
    /// Measure what docs/SPECIFICATION.md promises
    Bench(bench::Bench),
    /// Build the small guest kernels from Debian's source, where they have changed
    GuestKernel,
    /// Write manual pages and completions below `share` of the target directory; wheels get their own
    Man,
    /// Make what is published: wheel and source distribution
    Dist,
    /// Make up what crosses process boundaries, and see what holds
    Fuzz(fuzz::Fuzz),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Demo => demo::demo(),
        Task::Test => suite::test(),
        Task::Clients { options } => clients::clients(&options),
        Task::Python { options } => python::only(&options),
        Task::Tidy => tidy::tidy(),
        Task::Docs => reference::docs(),
        Task::Bench(bench) => bench::bench(&bench),
        Task::GuestKernel => guest_kernel::guest_kernel(),
        Task::Man => man::man(),
        Task::Dist => python::distribute(),
        Task::Fuzz(fuzz) => fuzz::fuzz(&fuzz),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("\nxtask: {reason}");
            ExitCode::FAILURE
        }
    }
}
