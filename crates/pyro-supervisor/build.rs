//! Builds the guest's agent and hands its path to `include_bytes!`.
//!
//! The agent is a static program with its own target flags, profile and lock file, which a
//! dependency of this workspace cannot have. So cargo is run for it, in a clean environment: flags
//! meant for the host's build (`RUSTFLAGS`, profile overrides, those of `PyO3`) must not reach it.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::Digest;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Without an explicit target the flags would hit build scripts and procedural macros as well.
const AGENT_FLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// What of cargo's own settings the inner build keeps: where things are, not how they are built.
const KEPT_CARGO_SETTINGS: [&str; 5] =
    ["CARGO_HOME", "CARGO_NET", "CARGO_HTTP", "CARGO_REGISTR", "CARGO_SOURCE"];

fn main() {
    let manifest_directory = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let out_directory = PathBuf::from(variable("OUT_DIR"));
    let agent = manifest_directory.join("../pyro-agent");
    let target_directory = out_directory.join("agent");

    let mut command = Command::new(variable("CARGO"));
    command
        .current_dir(&agent)
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(&target_directory);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let foreign =
            ["CARGO", "RUSTFLAGS", "RUSTC", "PYO3_"].iter().any(|prefix| name.starts_with(prefix));
        let kept = KEPT_CARGO_SETTINGS.iter().any(|prefix| name.starts_with(prefix));
        if foreign && !kept {
            command.env_remove(&*name);
        }
    }
    command.env("RUSTFLAGS", AGENT_FLAGS);
    let status = command.status().expect("cargo, which runs this script, can be run again");
    assert!(status.success(), "the agent does not build");

    let binary = target_directory.join(TARGET).join("release/pyro-agent");
    println!("cargo::rustc-env=PYRO_AGENT={}", binary.display());
    println!("cargo::rustc-env=PYRO_AGENT_DIGEST={}", digest(&binary));
    for watched in ["pyro-agent/src", "pyro-agent/Cargo.toml", "pyro-agent/Cargo.lock"] {
        watch(&manifest_directory.join("..").join(watched));
    }
    watch(&manifest_directory.join("../pyro-protocol/src"));
}

#[allow(clippy::disallowed_methods, reason = "it is how cargo talks to build scripts")]
fn variable(name: &str) -> String {
    std::env::var(name).expect("cargo sets it for build scripts")
}

#[allow(clippy::disallowed_methods, reason = "a failed build shows the path anyway")]
fn digest(binary: &Path) -> String {
    let content = std::fs::read(binary).expect("it was just built");
    let digest = sha2::Sha256::digest(content);
    digest.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn watch(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}
