//! The `pyro` executable under test, next to the executable of the test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of `pyro`, which is built first: a stale one would pass or fail for the wrong reason, and
/// only cargo knows whether it is stale. That takes a moment where nothing has changed.
pub fn executable() -> &'static Path {
    static EXECUTABLE: OnceLock<PathBuf> = OnceLock::new();
    EXECUTABLE.get_or_init(build)
}

/// Where cargo builds, and where the tests keep what they keep.
pub(crate) fn target_directory() -> PathBuf {
    profile_directory().parent().unwrap().to_owned()
}

fn build() -> PathBuf {
    let directory = profile_directory();
    let profile = match directory.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        name => name,
    };
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--package", "pyro-cli", "--profile", profile, "--target-dir"])
        .arg(target_directory())
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = cargo.output().expect("cargo, which built this test, can be run again");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "there is no `pyro` to test: {cargo:?}\n{complaint}");
    directory.join("pyro")
}

/// `target/debug` of `target/debug/deps/vm-0123456789abcdef`.
fn profile_directory() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}
