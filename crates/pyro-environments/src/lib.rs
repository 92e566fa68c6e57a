//! The environments of pyro: what the catalog offers, how an environment and
//! the kernel it boots are built from Debian's signed archive, and the store
//! on disk that holds them.
//!
//! This crate knows nothing of QEMU and of the commands that will run in an
//! environment. It reads no environment variable and prints nothing: settings
//! come in as [`ArchiveSettings`], progress goes out as [`PullProgress`].
//!
//! ```text
//!  catalog ──► pull ──► build (mmdebstrap in namespaces | tar2sqfs) ──► store
//!                          └── kernel (apt, bzImage, modules) ────────────┘
//! ```

mod archive;
mod build;
mod catalog;
mod digest;
mod pull;
mod store;
mod sys;

pub use archive::{ArchiveSettings, ArchiveSettingsError};
pub use build::kernel::KernelError;
pub use catalog::{
    CATALOG_VERSION, EnvironmentDefinition, EnvironmentName, UnknownEnvironment, catalog,
};
pub use digest::Digest;
pub use pull::error::PullError;
pub use pull::progress::{Artefact, PullProgress};
pub use pull::{PullMode, pull};
pub use store::prune::{PruneError, PruneScope, Pruned};
pub use store::{
    Damage, EnvironmentLease, EnvironmentState, InspectError, InstalledEnvironment,
    InstalledKernel, LeaseError, Package, Store,
};
