//! `cargo xtask test`: every check and every test there is, each a timed step.

use std::process::Command;

use crate::steps::Steps;
use crate::{bench, clients, guest_kernel, prerequisites, python, tidy, workspace};

pub(crate) fn test() -> Result<(), String> {
    let mut steps = Steps::default();
    let prepared = steps.run("install what is missing", prerequisites::for_tests);
    if prepared.is_ok() {
        // Each step is worth running whatever became of the others.
        check(&mut steps);
        run_tests(&mut steps);
    }
    steps.finish()
}

fn check(steps: &mut Steps) {
    let mut command = workspace::cargo();
    steps.command("format", command.args(["fmt", "--all", "--check"])).ok();
    // Without `--all`, which would follow the agent's path to pyro-protocol into this workspace.
    steps.command("format of the agent", agent(&["fmt"]).arg("--check")).ok();
    let mut command = workspace::cargo();
    command.args(["fmt", "--check", "--manifest-path"]).arg(workspace::fuzz_manifest());
    steps.command("format of the fuzz targets", &mut command).ok();
    steps.run("tidy", tidy::tidy).ok();
    let mut command = workspace::cargo();
    command.args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    steps.command("lints", &mut command).ok();
    let mut command = agent(&["clippy", "--locked"]);
    steps
        .command("lints of the agent", command.args(["--all-targets", "--", "-D", "warnings"]))
        .ok();
}

fn run_tests(steps: &mut Steps) {
    if build(steps).is_err() {
        return;
    }
    // VMs boot Debian's kernel where this fails, and most tests say something of those, too.
    guest_kernel::build(steps).ok();
    let mut command = agent(&["test", "--locked"]);
    steps.command("tests of the agent", &mut command).ok();
    let mut command = workspace::cargo();
    command.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    let outcome = test_directories(&mut command);
    steps.run("tests", || outcome.and_then(|()| crate::steps::run(&mut command))).ok();
    clients::test(steps, &[]);
    python::test(steps, &[]);
    steps.run("benchmark, quick", bench::smoke).ok();
}

/// Builds the executable that tests run.
pub(crate) fn build(steps: &mut Steps) -> Result<(), String> {
    let mut command = workspace::cargo();
    command.args(["build", "--locked", "--package=pyro-cli"]);
    steps.command("build pyro", &mut command)
}

/// Keeps the environments and VMs of the tests away from those of the user. They stay from run to
/// run, because pulling them takes minutes.
pub(crate) fn test_directories(command: &mut Command) -> Result<(), String> {
    let target = workspace::target()?;
    command.env("PYRO_ENVIRONMENT_CACHE_DIR", target.join("test-cache"));
    command.env("PYRO_STATE_DIR", target.join("test-state"));
    Ok(())
}

fn agent(subcommand: &[&str]) -> Command {
    let mut command = workspace::cargo();
    command.args(subcommand).arg("--manifest-path").arg(workspace::agent_manifest());
    command
}
