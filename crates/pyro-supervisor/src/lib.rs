//! The supervisor: the host process that owns exactly one VM and dies with it.
//!
//! [`server`] is the process itself; [`client`] is how another process starts and uses it, [`remote`] how
//! others use the VM of one that lives by itself. In between:
//!
//! ```text
//!   clients ═══ sockets ═══ owner ═══ virtio port ═══ agent
//!                            ├── lifecycle (pure: where the VM stands, and what follows)
//!                            └── conversation (pure: who may send what, and when it is too late)
//! ```

pub mod client;

mod departures;

pub mod remote;

pub mod server;

mod owner;

mod lifecycle;

mod clients;

mod machine;

mod house;

pub mod journal;

mod conversation;

mod fault;

mod launch;

mod boot;

mod guest_files;

mod template;

pub mod spare;

pub mod sockets;

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

pub use self::scratch::FREE_BYTES_MIN;
pub use self::template::prune::{
    PruneTemplatesError, PrunedTemplates, TemplateCount, abandoned_templates, count_templates,
    prune_templates, remove_unusable_templates,
};
