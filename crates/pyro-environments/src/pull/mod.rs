//! Pulling an environment: from a name to an image and a kernel in the store.
//!
//! The work is done on a thread of its own, in plain blocking code, because
//! the tools it starts are tied to the life of the thread that starts them.
//! The future only passes progress on, and ends the work when it is dropped.

pub(crate) mod error;
pub(crate) mod progress;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use self::error::PullError;
use self::progress::{Artefact, PullProgress};
use crate::archive::ArchiveSettings;
use crate::build::Build;
use crate::build::kernel::build_kernel;
use crate::build::process::Children;
use crate::build::root_filesystem::build_root_filesystem;
use crate::build::space;
use crate::build::tools::Tools;
use crate::catalog::EnvironmentName;
use crate::store::partial::PartialDirectory;
use crate::store::{
    EnvironmentState, HeldKernel, InstalledEnvironment, PullLock, Store, Verification,
};

/// Whether to build what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullMode {
    /// Keep what is installed if every byte of it is right.
    IfMissing,
    /// Build anew from the present state of the archive.
    Refresh,
}

/// A progress callback that is slower than the build slows the build down.
const PROGRESS_QUEUED_MAX: usize = 64;

/// Makes sure that `name` is installed, and returns it.
///
/// Several processes may pull at once: one builds, the others wait for it.
/// When the future is dropped, everything it has started is killed and deleted
/// before `drop` returns; only a pull that waits for another process leaves
/// its thread waiting, which then ends without doing anything.
pub async fn pull(
    store: &Store,
    name: EnvironmentName,
    archive: &ArchiveSettings,
    mode: PullMode,
    progress: &(dyn Fn(PullProgress) + Send + Sync),
) -> Result<InstalledEnvironment, PullError> {
    let (mut worker, outcome) = Worker::start(store.clone(), name, archive.clone(), mode)
        .ok_or(PullError::Aborted { environment: name })?;
    while let Some(event) = worker.progress.recv().await {
        progress(event);
    }
    outcome.await.unwrap_or(Err(PullError::Aborted { environment: name }))
}

/// The thread that does the work, seen from the future.
struct Worker {
    thread: Option<JoinHandle<()>>,
    progress: mpsc::Receiver<PullProgress>,
    control: Arc<Control>,
}

/// What the future and the thread share.
#[derive(Default)]
struct Control {
    children: Children,
    is_waiting: AtomicBool,
}

impl Worker {
    fn start(
        store: Store,
        name: EnvironmentName,
        archive: ArchiveSettings,
        mode: PullMode,
    ) -> Option<(Self, oneshot::Receiver<Result<InstalledEnvironment, PullError>>)> {
        let control = Arc::new(Control::default());
        let (progress_sender, progress) = mpsc::channel(PROGRESS_QUEUED_MAX);
        let (outcome_sender, outcome) = oneshot::channel();
        let job_control = Arc::clone(&control);
        let work = move || {
            // A receiver that is gone has cancelled: nobody to tell.
            let report = |event| drop(progress_sender.blocking_send(event));
            let job = Job {
                store: &store,
                name,
                archive: &archive,
                control: &job_control,
                report: &report,
            };
            drop(outcome_sender.send(job.run(mode)));
        };
        let thread = std::thread::Builder::new().name("pyro-pull".to_owned()).spawn(work).ok()?;
        Some((Self { thread: Some(thread), progress, control }, outcome))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.control.children.cancel();
        // A thread that waits to tell of its progress must not wait for us.
        self.progress.close();
        if self.control.is_waiting.load(Ordering::SeqCst) {
            return;
        }
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// One pull, on its own thread.
struct Job<'a> {
    store: &'a Store,
    name: EnvironmentName,
    archive: &'a ArchiveSettings,
    control: &'a Control,
    report: &'a (dyn Fn(PullProgress) + Sync),
}

impl Job<'_> {
    fn run(&self, mode: PullMode) -> Result<InstalledEnvironment, PullError> {
        if let Some(environment) = self.installed(mode)? {
            return Ok(environment);
        }
        let definition = self.name.definition();
        let tools = Tools::check(self.archive.tool_path())?;
        space::require(self.store.root(), definition.build_bytes)?;
        self.store.create_directories().map_err(|source| self.write_error(source))?;
        self.store.remove_abandoned_builds().map_err(|source| self.write_error(source))?;

        let path = self.store.environment_lock_path(self.name);
        let _lock = self.lock(Artefact::RootFilesystem, &path)?;
        if let Some(environment) = self.installed(mode)? {
            return Ok(environment);
        }
        let partial =
            PartialDirectory::create(self.store).map_err(|source| self.write_error(source))?;
        let resolved = self.archive.resolve(definition);
        let children = &self.control.children;
        let build = Build::prepare(
            definition,
            self.store.root(),
            partial.path(),
            &resolved,
            &tools,
            children,
            self.report,
        )?;
        let kernel = self.kernel(&build, &partial, mode)?;
        self.root_filesystem(&build, &partial, &kernel)
    }

    /// What is installed, where it is to be kept and no byte of it is wrong.
    fn installed(&self, mode: PullMode) -> Result<Option<InstalledEnvironment>, PullError> {
        if mode == PullMode::Refresh {
            return Ok(None);
        }
        if self.store.find(self.name)?.is_none() {
            return Ok(None);
        }
        (self.report)(PullProgress::Verifying);
        match self.store.inspect_with(self.name, Verification::Content)? {
            EnvironmentState::Installed(environment) => Ok(Some(*environment)),
            EnvironmentState::Missing | EnvironmentState::Damaged(_) => Ok(None),
        }
    }

    fn kernel(
        &self,
        build: &Build<'_>,
        partial: &PartialDirectory,
        mode: PullMode,
    ) -> Result<HeldKernel, PullError> {
        let definition = self.name.definition();
        let _lock = self.lock(Artefact::Kernel, &self.store.kernel_lock_path(definition))?;
        if mode == PullMode::IfMissing {
            let held = self.store.hold_current_kernel(definition);
            if let Some(kernel) = held.map_err(|source| self.write_error(source))? {
                return Ok(kernel);
            }
        }
        let built = partial.subdirectory("kernel").map_err(|source| self.write_error(source))?;
        let release = build_kernel(build, &built)?;
        (self.report)(PullProgress::Publishing { artefact: Artefact::Kernel });
        self.store
            .publish_kernel(partial, &built, release, definition)
            .map_err(|source| self.write_error(source))
    }

    fn root_filesystem(
        &self,
        build: &Build<'_>,
        partial: &PartialDirectory,
        kernel: &HeldKernel,
    ) -> Result<InstalledEnvironment, PullError> {
        let built = partial.subdirectory("image").map_err(|source| self.write_error(source))?;
        let packages = build_root_filesystem(build, &built.join("rootfs.squashfs"))?;
        (self.report)(PullProgress::Publishing { artefact: Artefact::RootFilesystem });
        self.store
            .publish_environment(partial, &built, self.name, packages, kernel)
            .map_err(|source| self.write_error(source))
    }

    fn lock(&self, artefact: Artefact, path: &std::path::Path) -> Result<PullLock, PullError> {
        // The future that cancels looks at `is_waiting` after it has set its
        // flag, and this thread the other way round: one sees the other.
        let lock = PullLock::acquire(path, |holder_pid| {
            self.control.is_waiting.store(true, Ordering::SeqCst);
            (self.report)(PullProgress::Waiting { artefact, holder_pid });
            self.go_on().map_err(|_cancelled| io::ErrorKind::Interrupted.into())
        });
        self.control.is_waiting.store(false, Ordering::SeqCst);
        self.go_on()?;
        lock.map_err(|source| self.write_error(source))
    }

    fn go_on(&self) -> Result<(), PullError> {
        if self.control.children.is_cancelled() {
            return Err(PullError::Aborted { environment: self.name });
        }
        Ok(())
    }

    fn write_error(&self, source: io::Error) -> PullError {
        space::write_error(self.store.root(), self.name.definition().build_bytes, source)
    }
}
