//! Environments as the surfaces show them.

use std::collections::HashSet;
use std::error::Error;
use std::path::PathBuf;

use pyro_environments::{
    CATALOG_VERSION, EnvironmentDefinition, EnvironmentName, EnvironmentState, InspectError,
    InstalledEnvironment, PruneError, PruneScope, PullError, PullMode, PullProgress, Store,
};
use pyro_supervisor::TemplateCount;
use serde::Serialize;

use crate::config::Config;
use crate::guest_kernel::ShippedKernels;
use crate::{ErrorKind, PyroError, spares};

/// The versions of pyro that can boot what this catalog describes.
const COMPATIBILITY: &str = ">=3.0.0,<4.0.0";

/// One environment of the catalog, and what is installed of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnvironmentEntry {
    pub name: &'static str,
    pub version: &'static str,
    pub description: &'static str,
    pub default_packages: &'static [&'static str],
    pub distribution: &'static str,
    pub distribution_version: &'static str,
    pub platform: &'static str,
    /// Digest of the installed image: an environment is built on this host, from signed packages.
    pub source_digest: Option<String>,
    pub compatibility: &'static str,
    pub catalog_version: &'static str,
    pub installed: bool,
    pub cache_dir: PathBuf,
    pub install_dir: Option<PathBuf>,
    /// Null, like the two below it: these environments come from no registry.
    pub oci_registry: Option<String>,
    pub oci_repository: Option<String>,
    pub oci_reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install_manifest: Option<PathBuf>,
    /// Bytes on disk of the root filesystem image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs_bytes: Option<u64>,
    /// The guest kernel's release, as `uname -r` says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_release: Option<String>,
    /// What is wrong with what is installed; pulling again repairs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// The whole catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnvironmentList {
    pub catalog_version: &'static str,
    pub environments: Vec<EnvironmentEntry>,
}

/// An environment that is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PulledEnvironment {
    #[serde(flatten)]
    pub entry: EnvironmentEntry,
    pub kernel_image: PathBuf,
    pub rootfs_image: PathBuf,
    /// Where it came from: `debian-archive`.
    pub source: &'static str,
}

/// What a prune deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    pub deleted_environment_dirs: Vec<PathBuf>,
    /// Of environments.
    pub count: usize,
    pub deleted_template_dirs: Vec<PathBuf>,
    /// By both.
    pub freed_bytes: u64,
}

/// Parses the name of an environment; the error lists those there are.
pub fn parse_environment(name: &str) -> Result<EnvironmentName, PyroError> {
    name.parse::<EnvironmentName>()
        .map_err(|error| PyroError::from_error(ErrorKind::UnknownEnvironment, &error))
}

pub(crate) fn list(store: &Store) -> Result<EnvironmentList, PyroError> {
    let entries = EnvironmentName::all().map(|name| inspect(store, name));
    Ok(EnvironmentList {
        catalog_version: CATALOG_VERSION,
        environments: entries.collect::<Result<_, _>>()?,
    })
}

pub(crate) fn inspect(store: &Store, name: EnvironmentName) -> Result<EnvironmentEntry, PyroError> {
    let mut entry = catalog_entry(store, name.definition());
    match store.inspect(name).map_err(|error| store_failure(&error))? {
        EnvironmentState::Missing => {}
        EnvironmentState::Installed(environment) => fill(&mut entry, &environment),
        EnvironmentState::Damaged(damage) => entry.damage = Some(damage.to_string()),
    }
    Ok(entry)
}

pub(crate) async fn pull(
    config: &Config,
    store: &Store,
    name: EnvironmentName,
    mode: PullMode,
    progress: &(dyn Fn(PullProgress) + Send + Sync),
) -> Result<InstalledEnvironment, PyroError> {
    pyro_environments::pull(store, name, &config.archive()?, mode, progress)
        .await
        .map_err(|error| pull_failure(name, &error))
}

pub(crate) fn pulled(store: &Store, environment: &InstalledEnvironment) -> PulledEnvironment {
    let mut entry = catalog_entry(store, environment.definition());
    fill(&mut entry, environment);
    PulledEnvironment {
        entry,
        kernel_image: environment.kernel.vmlinux.clone(),
        rootfs_image: environment.rootfs_image.clone(),
        source: "debian-archive",
    }
}

/// Identifies everything that VMs of `environment` with the kernel of that digest are made of.
pub(crate) fn digest(environment: &InstalledEnvironment, kernel_digest: &str) -> String {
    format!("{} {kernel_digest}", environment.image_digest)
}

/// Environments first: templates of those that are gone follow them.
pub(crate) fn prune(
    config: &Config,
    store: &Store,
    scope: PruneScope,
) -> Result<PruneReport, PyroError> {
    spares::remove_abandoned(config);
    let pruned = store.prune(scope).map_err(|error| match &error {
        PruneError::Inspect(error) => store_failure(error),
        PruneError::Delete { .. } => prune_failure(&error),
    })?;
    let wanted = match scope {
        PruneScope::Stale => installed_digests(config, store)?,
        PruneScope::All => HashSet::new(),
    };
    let templates = pyro_supervisor::prune_templates(&config.templates_directory(), &|digest| {
        wanted.contains(digest)
    })
    .map_err(|error| prune_failure(&error))?;
    Ok(PruneReport {
        count: pruned.deleted_dirs.len(),
        deleted_environment_dirs: pruned.deleted_dirs,
        deleted_template_dirs: templates.deleted_dirs,
        freed_bytes: pruned.freed_bytes + templates.freed_bytes,
    })
}

/// How many templates there are, those apart that no environment can use which is there.
pub(crate) fn count_templates(config: &Config, store: &Store) -> Result<TemplateCount, PyroError> {
    let images = installed_images(store)?;
    let templates = config.templates_directory();
    pyro_supervisor::count_templates(&templates, &|digest| is_of_one(&images, digest)).map_err(
        |error| {
            PyroError::from_error(ErrorKind::EnvironmentUnavailable, &error)
                .context("cannot count the templates")
        },
    )
}

/// Deletes templates that no environment can use which is there, and gives their directories.
pub(crate) fn remove_unusable_templates(
    config: &Config,
    store: &Store,
) -> Result<Vec<PathBuf>, PyroError> {
    let images = installed_images(store)?;
    let templates = config.templates_directory();
    pyro_supervisor::remove_unusable_templates(&templates, &|digest| is_of_one(&images, digest))
        .map(|removed| removed.deleted_dirs)
        .map_err(|error| prune_failure(&error))
}

fn installed_images(store: &Store) -> Result<HashSet<String>, PyroError> {
    let mut images = HashSet::new();
    for name in EnvironmentName::all() {
        let installed = store.find(name).map_err(|error| store_failure(&error))?;
        images.extend(installed.map(|environment| environment.image_digest.to_string()));
    }
    Ok(images)
}

/// Whether what has this [`digest`] is of one of these images. Its kernel does not matter: another pyro that uses this
/// cache, in a Python environment for instance, may be shipped with other ones.
fn is_of_one(images: &HashSet<String>, digest: &str) -> bool {
    digest.split_once(' ').is_some_and(|(image, _kernel)| images.contains(image))
}

/// With each kernel that their VMs can have.
fn installed_digests(config: &Config, store: &Store) -> Result<HashSet<String>, PyroError> {
    let shipped = ShippedKernels::of(&config.pyro).ok().map(|shipped| shipped.digests());
    let mut digests = HashSet::new();
    for name in EnvironmentName::all() {
        let installed = store.find(name).map_err(|error| store_failure(&error))?;
        let Some(environment) = installed else { continue };
        digests.insert(digest(&environment, &environment.kernel.digest.to_string()));
        for kernel in shipped.iter().flatten() {
            digests.insert(digest(&environment, kernel));
        }
    }
    Ok(digests)
}

fn catalog_entry(store: &Store, definition: &'static EnvironmentDefinition) -> EnvironmentEntry {
    EnvironmentEntry {
        name: definition.name,
        version: definition.version,
        description: definition.description,
        default_packages: definition.default_packages,
        distribution: definition.distribution,
        distribution_version: definition.distribution_version,
        platform: definition.platform,
        source_digest: None,
        compatibility: COMPATIBILITY,
        catalog_version: CATALOG_VERSION,
        installed: false,
        cache_dir: store.root().to_owned(),
        install_dir: None,
        oci_registry: None,
        oci_repository: None,
        oci_reference: None,
        install_manifest: None,
        rootfs_bytes: None,
        kernel_release: None,
        damage: None,
    }
}

fn fill(entry: &mut EnvironmentEntry, environment: &InstalledEnvironment) {
    entry.installed = true;
    entry.source_digest = Some(environment.image_digest.to_string());
    entry.install_dir = Some(environment.install_dir.clone());
    entry.install_manifest = Some(environment.manifest.clone());
    entry.rootfs_bytes = Some(environment.rootfs_bytes);
    entry.kernel_release = Some(environment.kernel.release.clone());
}

pub(crate) fn store_failure(error: &InspectError) -> PyroError {
    PyroError::from_error(ErrorKind::EnvironmentUnavailable, error)
        .hint("make the directory readable, or set `PYRO_ENVIRONMENT_CACHE_DIR` to another")
}

fn prune_failure(error: &(dyn Error + 'static)) -> PyroError {
    PyroError::from_error(ErrorKind::EnvironmentUnavailable, error)
        .hint("make the directory writable for your user")
}

fn pull_failure(name: EnvironmentName, error: &PullError) -> PyroError {
    let kind = match error {
        PullError::ToolMissing { .. } | PullError::IsolationUnavailable { .. } => {
            ErrorKind::HostUnsupported
        }
        PullError::NoSpace { .. } => ErrorKind::NoSpace,
        _ => ErrorKind::EnvironmentUnavailable,
    };
    let mut failure = PyroError::from_error(kind, error).context(format!("cannot pull `{name}`"));
    failure.hints = error.hints();
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_of_an_image_that_is_there_is_usable_whatever_its_kernel() {
        let images = HashSet::from(["sha256:aa".to_owned()]);
        for digest in ["sha256:aa sha256:bb", "sha256:aa sha256:of-another-pyro"] {
            assert!(is_of_one(&images, digest), "{digest}");
        }
        for digest in ["sha256:bb sha256:aa", "sha256:aa", ""] {
            assert!(!is_of_one(&images, digest), "{digest}");
        }
    }
}
