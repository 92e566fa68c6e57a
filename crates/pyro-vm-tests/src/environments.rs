//! The environments that tests run in: pulled once, kept from one `cargo test` to the next.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::executable::{executable, target_directory};

pub const BASE: &str = "debian:12-base";
pub const DEFAULT: &str = "debian:12";
pub const BUILD: &str = "debian:12-build";

pub(crate) fn cache_directory() -> PathBuf {
    target_directory().join("test-cache")
}

/// The cache directory with `environment` in it.
pub fn cache_with(environment: &str) -> PathBuf {
    static READY: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let cache = cache_directory();
    // A pull that failed fails again, and says why, for every test that needs it.
    let mut ready = READY.lock().unwrap_or_else(PoisonError::into_inner);
    if !ready.iter().any(|name| name == environment) {
        if inspect(&cache, environment)["installed"] != true {
            pyro(&cache, &["env", "pull", environment]);
        }
        ready.push(environment.to_owned());
    }
    cache
}

/// Copies [`BASE`] to a cache directory of a test's own.
pub fn copy_cache(to: &Path) {
    let cache = cache_with(BASE);
    let image = inspect(&cache, BASE)["install_dir"].as_str().unwrap().to_owned();
    let image = Path::new(&image).strip_prefix(&cache).unwrap();
    fs_err::create_dir_all(to).unwrap();
    let mut copy = Command::new("cp");
    copy.args(["--archive", "--parents", "environments", "kernels"]).arg(image).arg(to);
    assert!(copy.current_dir(cache).status().unwrap().success());
}

fn inspect(cache: &Path, environment: &str) -> Value {
    let entry = pyro(cache, &["env", "inspect", "--json", environment]);
    serde_json::from_slice(&entry).unwrap()
}

fn pyro(cache: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut pyro = Command::new(executable());
    pyro.args(arguments).env("PYRO_ENVIRONMENT_CACHE_DIR", cache);
    let output = pyro.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{pyro:?}\n{complaint}");
    output.stdout
}
