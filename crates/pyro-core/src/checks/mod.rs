//! What the doctor checks one by one, each with a verdict, its reason, and what helps. A check fails exactly where no VM can
//! run; what is merely worse than it could be is a warning.

mod host;

mod kvm;

mod stores;

use serde::Serialize;

use crate::PyroError;

pub(crate) use self::host::{
    DIRECTORIES, DISK_MAKER, PULL_PROGRAMS, QEMU, SPACE, confinement, directories, guest_kernel,
    network, programs, pyro, qemu, space, versions,
};
pub(crate) use self::kvm::{accelerator, kvm};
pub(crate) use self::stores::{environments, leftovers, repair, spares, templates};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub status: CheckStatus,
    pub reason: String,
    /// A command where one helps, otherwise words. There is one unless the check passes.
    pub remedy: Option<String>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    Pass,
    /// VMs run, but something could be better.
    Warn,
    /// VMs cannot run.
    Fail,
}

impl Check {
    pub(crate) fn pass(name: &'static str, reason: impl Into<String>) -> Self {
        Self { name, status: CheckStatus::Pass, reason: reason.into(), remedy: None }
    }

    pub(crate) fn warn(
        name: &'static str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { name, status: CheckStatus::Warn, reason: reason.into(), remedy }
    }

    pub(crate) fn fail(
        name: &'static str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { status: CheckStatus::Fail, ..Self::warn(name, reason, remedy) }
    }

    /// Fails for what an operation said, with its first hint.
    pub(crate) fn failed(name: &'static str, failure: &PyroError) -> Self {
        let remedy = failure.hints.first().cloned();
        let remedy = remedy.unwrap_or_else(|| "see what it says, and try again".to_owned());
        Self::fail(name, reason(failure), remedy)
    }
}

/// What an operation said, without its hints.
fn reason(failure: &PyroError) -> String {
    let parts = std::iter::once(&failure.message).chain(&failure.causes);
    parts.map(String::as_str).collect::<Vec<_>>().join("; ")
}

/// As people say it.
fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// A path as a word of a shell's command line.
fn quoted(path: &std::path::Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
