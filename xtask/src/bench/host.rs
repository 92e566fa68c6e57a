//! What was measured on: without it a number means nothing.

use std::process::Command;

use serde_json::{Value, json};

pub(super) fn facts() -> Value {
    json!({
        "date": output("date", &["--utc", "+%Y-%m-%d"]),
        "kernel": output("uname", &["-r"]),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu_model": cpu_model(),
        "qemu": output("qemu-system-x86_64", &["--version"]),
        "podman": output("podman", &["--version"]),
        "bubblewrap": output("bwrap", &["--version"]),
    })
}

/// One line for people.
pub(super) fn describe() -> String {
    let facts = facts();
    let text = |key: &str| facts[key].as_str().unwrap_or_default().to_owned();
    format!(
        "{}: {} CPUs ({}), Linux {}, {}",
        text("date"),
        facts["cpus"],
        text("cpu_model"),
        text("kernel"),
        text("qemu")
    )
}

fn cpu_model() -> String {
    let cpus = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = cpus.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown").to_owned()
}

/// The first line of what a program prints, or nothing where there is no such program.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
}
