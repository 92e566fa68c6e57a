//! The supervisor: the host process that owns exactly one VM and dies with it.
//!
//! [`server`] is the process itself; [`client`] is how another process starts and uses it. In
//! between:
//!
//! ```text
//!   client ═══ socket ═══ driver ═══ virtio port ═══ agent
//!                           │
//!                     conversation (pure: who may send what, and when it is too late)
//! ```

pub mod client;

pub mod server;

mod driver;

mod conversation;

mod launch;

mod boot;

mod template;

mod initramfs;

mod scratch;

mod console;

mod untrusted;

mod memory;

mod packed;

mod link;

mod background;

mod sys;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use self::template::prune::{PruneTemplatesError, PrunedTemplates, prune_templates};
