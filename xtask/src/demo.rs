//! `cargo xtask demo`: from a checkout to a command that ran in a VM.

use std::process::Command;

use crate::steps::Steps;
use crate::{prerequisites, workspace};

const ENVIRONMENT: &str = "debian:12";

pub(crate) fn demo() -> Result<(), String> {
    let mut steps = Steps::default();
    let outcome = show(&mut steps);
    let finished = steps.finish();
    outcome?;
    finished?;
    let pyro = "./target/release/pyro";
    println!(
        "\nWhat to try next:\n  \
         {pyro} run {ENVIRONMENT} -- python3 -c 'import platform; print(platform.uname())'\n  \
         {pyro} run {ENVIRONMENT} -- sh -c 'rm -rf /usr/bin; ls || echo all programs are gone'\n  \
         {pyro} run --verbose {ENVIRONMENT} -- true\n  \
         {pyro} doctor\n  \
         {pyro} env list"
    );
    Ok(())
}

fn show(steps: &mut Steps) -> Result<(), String> {
    steps.run("install what is missing", prerequisites::for_running)?;
    let mut build = workspace::cargo();
    build.args(["build", "--release", "--package=pyro-cli"]);
    steps.command("build pyro", &mut build)?;
    let pyro = workspace::target()?.join("release/pyro");
    let mut pull = Command::new(&pyro);
    steps.command(
        "pull the environment (built here, from Debian's signed archive)",
        pull.args(["env", "pull", ENVIRONMENT]),
    )?;
    let mut run = Command::new(&pyro);
    steps.command(
        "run a command in a fresh VM",
        run.args(["run", ENVIRONMENT, "--", "git", "--version"]),
    )
}
