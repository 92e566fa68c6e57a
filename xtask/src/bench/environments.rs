//! Pulls into an empty store: how long they take, and what they leave on the disk.

use std::io;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::{ENVIRONMENTS, Pyro};

/// A store that is emptied before each pull.
const CACHE: &str = "bench-cache";

struct Measured {
    environment: &'static str,
    pull_seconds: f64,
    rootfs_bytes: u64,
    /// The uncompressed kernel and its modules.
    kernel_bytes: u64,
    packages: usize,
}

pub(super) fn measure(pyro: &Pyro) -> Result<(String, Value), String> {
    let store = pyro.target.join(CACHE);
    let mut measured = Vec::new();
    for environment in ENVIRONMENTS {
        empty(&store)?;
        measured.push(pull(pyro, environment)?);
    }
    empty(&store)?;
    Ok((table(&measured), json_of(&measured)))
}

fn pull(pyro: &Pyro, environment: &'static str) -> Result<Measured, String> {
    let started = Instant::now();
    let pulled = pyro.pull(CACHE, environment)?;
    let pull_seconds = started.elapsed().as_secs_f64();
    let path = |key: &str| {
        pulled[key].as_str().map(Path::new).ok_or_else(|| format!("`{key}` is no path"))
    };
    let manifest = fs_err::read(path("install_manifest")?).map_err(|error| error.to_string())?;
    let manifest: Value = serde_json::from_slice(&manifest)
        .map_err(|error| format!("the manifest is no JSON: {error}"))?;
    let kernel_directory = path("kernel_image")?.parent().ok_or("a kernel without a directory")?;
    Ok(Measured {
        environment,
        pull_seconds,
        rootfs_bytes: pulled["rootfs_bytes"].as_u64().ok_or("`rootfs_bytes` is no number")?,
        kernel_bytes: tree_bytes(kernel_directory).map_err(|error| error.to_string())?,
        packages: manifest["packages"].as_array().map_or(0, Vec::len),
    })
}

fn empty(store: &Path) -> Result<(), String> {
    match fs_err::remove_dir_all(store) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn tree_bytes(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { tree_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

fn table(measured: &[Measured]) -> String {
    let mut text = format!(
        "{:<18}{:>10}{:>12}{:>12}{:>12}",
        "", "pull s", "image MB", "kernel MB", "packages"
    );
    for one in measured {
        text += &format!(
            "\n{:<18}{:>10.0}{:>12}{:>12}{:>12}",
            one.environment,
            one.pull_seconds,
            megabytes(one.rootfs_bytes),
            megabytes(one.kernel_bytes),
            one.packages
        );
    }
    text
}

fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

fn json_of(measured: &[Measured]) -> Value {
    let entries = measured.iter().map(|one| {
        let values = json!({
            "pull_seconds": one.pull_seconds,
            "rootfs_bytes": one.rootfs_bytes,
            "kernel_bytes": one.kernel_bytes,
            "packages": one.packages,
        });
        (one.environment.to_owned(), values)
    });
    Value::Object(entries.collect())
}
