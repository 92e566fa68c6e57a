//! What can go wrong with a pull, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::build::kernel::KernelError;
use crate::catalog::EnvironmentName;
use crate::store::InspectError;

/// An environment could not be pulled. Nothing half-done is visible.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("`{tool}` is not installed (Debian package `{package}`)")]
    ToolMissing { tool: &'static str, package: &'static str },

    /// Neither way to build without root works on this host.
    #[error("cannot make a user namespace, and `fakechroot` is not installed: {reason}")]
    IsolationUnavailable { reason: String },

    #[error(
        "not enough disk space in `{}`: {} needed, {} available",
        directory.display(), mib(*needed_bytes), mib(*available_bytes)
    )]
    NoSpace { directory: PathBuf, needed_bytes: u64, available_bytes: u64 },

    #[error("cannot reach the Debian mirror {}{}", list(mirrors), indented(details))]
    MirrorUnreachable { mirrors: Vec<String>, details: Vec<String> },

    #[error("the Debian mirror {} cannot be trusted{}", list(mirrors), indented(details))]
    BadSignature { mirrors: Vec<String>, details: Vec<String> },

    #[error("`{tool}` failed ({outcome}){}", indented(details))]
    BuildFailed { tool: &'static str, outcome: String, details: Vec<String> },

    #[error("the build was ended after {minutes} minutes{}", indented(details))]
    DeadlineReached { minutes: u64, details: Vec<String> },

    #[error("the kernel package cannot be used")]
    KernelUnusable(#[source] KernelError),

    #[error("cannot write to the environment store at `{}`", root.display())]
    StoreNotWritable { root: PathBuf, source: io::Error },

    #[error(transparent)]
    StoreUnreadable(#[from] InspectError),

    /// The thread that does the work could not be started, or panicked.
    #[error("the pull of `{environment}` ended without an outcome")]
    Aborted { environment: EnvironmentName },
}

impl PullError {
    /// What the user can do about it, each a sentence of its own.
    pub fn hints(&self) -> Vec<String> {
        let hints: &[&str] = match self {
            Self::ToolMissing { package, .. } => {
                return vec![format!("install it: `sudo apt-get install {package}`")];
            }
            Self::IsolationUnavailable { .. } => &[
                "install the fallback: `sudo apt-get install fakechroot fakeroot`",
                "or give your user a range in `/etc/subuid` and `/etc/subgid` and install `uidmap`",
            ],
            Self::NoSpace { .. } => &[
                "delete what is no longer needed: `pyro env prune`",
                "or use a directory on another disk: set `PYRO_ENVIRONMENT_CACHE_DIR`",
            ],
            Self::MirrorUnreachable { .. } => {
                &["set a mirror you can reach with `--mirror URL`, or a proxy with `--proxy URL`"]
            }
            Self::BadSignature { .. } => &[
                "use another mirror with `--mirror URL`",
                "check the clock of this machine, and update `debian-archive-keyring`",
            ],
            Self::BuildFailed { .. } | Self::KernelUnusable(_) => {
                &["try again; if it happens again, use another mirror with `--mirror URL`"]
            }
            Self::DeadlineReached { .. } => &["use a nearer mirror with `--mirror URL`"],
            Self::StoreNotWritable { .. } => {
                &["make the directory writable, or set `PYRO_ENVIRONMENT_CACHE_DIR` to one that is"]
            }
            Self::StoreUnreadable(_) => {
                &["make the directory readable, or set `PYRO_ENVIRONMENT_CACHE_DIR` to another"]
            }
            Self::Aborted { .. } => &[],
        };
        hints.iter().map(|&hint| hint.to_owned()).collect()
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn list(mirrors: &[String]) -> String {
    mirrors.iter().map(|mirror| format!("`{mirror}`")).collect::<Vec<_>>().join(", ")
}

fn indented(lines: &[String]) -> String {
    lines.iter().flat_map(|line| ["\n  ", line.as_str()]).collect()
}
