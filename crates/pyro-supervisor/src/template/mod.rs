//! Templates: machines booted once on this host, warmed up, and frozen.
//!
//! ```text
//!   key ──► store: is there one? ──no──► lock ──► make: boot, warm up, freeze ──► publish
//!                  │ yes                  └─ another process makes it: wait, look again
//!                  ▼
//!               restore
//! ```
//!
//! A template is derived and always rebuildable: whatever is missing, damaged or stale is made
//! again. It holds no secret and no identity: what makes one VM different from another comes with
//! its first conversation.

pub(crate) mod key;

pub(crate) mod store;

pub(crate) mod prune;

pub(crate) mod make;

pub(crate) mod restore;

mod sharing;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use pyro_protocol::client::{LaunchPhase, LaunchSpec};
use pyro_protocol::guest::BootReport;

use self::key::{KeyError, TemplateKey};
use self::make::MakeError;
use self::restore::RestoreError;
use self::store::{MakerLock, Template, TemplateStore};
use crate::background;
use crate::boot::Vm;
use crate::launch::StepClock;
use crate::scratch::ScratchDisk;

/// For another process to make a template. One that needs longer is stopped or stuck.
const MAKER_DEADLINE: Duration = Duration::from_mins(5);

/// Why no VM came out of a template.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("cannot tell which template is needed")]
    Key { source: KeyError },
    #[error("cannot use the store of templates")]
    Store { source: io::Error },
    #[error("cannot make a template")]
    Make { source: MakeError },
    #[error("another process makes the template for {} seconds already", MAKER_DEADLINE.as_secs())]
    MakerTooSlow,
    #[error("the template was deleted as soon as it was made")]
    Vanished,
    #[error("cannot restore the template")]
    Restore { source: RestoreError },
}

/// Restores a VM for `spec`, from a template that is made first where there is none. One that cannot
/// be restored is made anew once: it may be damaged.
pub(crate) async fn restored(
    spec: &LaunchSpec,
    store: &TemplateStore,
    warm_up: &[String],
    progress: &impl Fn(LaunchPhase),
    clock: &mut StepClock,
) -> Result<(Vm, BootReport, ScratchDisk), TemplateError> {
    let key = TemplateKey::of(spec, warm_up).map_err(|source| TemplateError::Key { source })?;
    let found = store.open(&key).map_err(|source| TemplateError::Store { source })?;
    if let Some(template) = found {
        let error = match restore::restore(spec, &template, progress, clock).await {
            Ok(restored) => return Ok(restored),
            Err(error) => error,
        };
        if !error.is_the_templates() {
            return Err(TemplateError::Restore { source: error });
        }
        let lock = lock(store, &key, progress).await?;
        // Another process may have made it anew while this one waited.
        store
            .remove_if_same(&key, &template, &lock)
            .map_err(|source| TemplateError::Store { source })?;
    }
    let template = made(spec, store, &key, warm_up, progress).await?;
    restore::restore(spec, &template, progress, clock)
        .await
        .map_err(|source| TemplateError::Restore { source })
}

/// Has the template made, if it is not there.
pub(crate) async fn prepare(
    spec: &LaunchSpec,
    store: &TemplateStore,
    warm_up: &[String],
    progress: &impl Fn(LaunchPhase),
) -> Result<(), TemplateError> {
    let key = TemplateKey::of(spec, warm_up).map_err(|source| TemplateError::Key { source })?;
    let found = store.open(&key).map_err(|source| TemplateError::Store { source })?;
    if found.is_none() {
        made(spec, store, &key, warm_up, progress).await?;
    }
    Ok(())
}

/// The template, made by this process or by another that was faster.
async fn made(
    spec: &LaunchSpec,
    store: &TemplateStore,
    key: &TemplateKey,
    warm_up: &[String],
    progress: &impl Fn(LaunchPhase),
) -> Result<Template, TemplateError> {
    let unusable = |source| TemplateError::Store { source };
    let lock = lock(store, key, progress).await?;
    if let Some(template) = store.open(key).map_err(unusable)? {
        return Ok(template);
    }
    make::make(spec, warm_up, store, key, &lock, progress)
        .await
        .map_err(|source| TemplateError::Make { source })?;
    store.open(key).map_err(unusable)?.ok_or(TemplateError::Vanished)
}

async fn lock(
    store: &TemplateStore,
    key: &TemplateKey,
    progress: &impl Fn(LaunchPhase),
) -> Result<MakerLock, TemplateError> {
    let unusable = |source| TemplateError::Store { source };
    if let Some(lock) = store.try_lock(key).map_err(unusable)? {
        return Ok(lock);
    }
    progress(LaunchPhase::WaitingForTemplate);
    let (store, key) = (store.clone(), key.clone());
    let waiting = background::run(move || store.lock(&key));
    let waited = tokio::time::timeout(MAKER_DEADLINE, waiting).await;
    waited.map_err(|_| TemplateError::MakerTooSlow)?.map_err(unusable)
}

/// A file in memory for the state of a machine's devices: some hundred kilobytes.
fn state_file() -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create("pyro-state", rustix::fs::MemfdFlags::CLOEXEC)?)
}
