//! The harness of the tests that boot real VMs through the built `pyro` executable.
//!
//! A test makes a [`Host`], starts [`Pyro`] on it and looks at the [`Outcome`]. That nothing is left
//! behind is checked for every `pyro` when it has ended, and for every host when it is dropped.

#![allow(clippy::unwrap_used, reason = "a harness fails its test by panicking")]

mod host;

mod pyro;

mod vms;

mod range;

mod bystanders;

pub mod chance;

mod collector;

mod document;

mod lifeline;

mod environments;

mod executable;

mod slots;

pub mod internet;

pub mod model;

pub use self::bystanders::Bystanders;
pub use self::document::{Shown, first_missing, shown_commands};
pub use self::environments::{BASE, BUILD, DEFAULT, cache_with, copy_cache};
pub use self::executable::executable;
pub use self::host::{Host, accelerators};
pub use self::internet::Internet;
pub use self::lifeline::{Process, Role};
pub use self::pyro::{Outcome, Pyro, Running};
pub use self::range::Range;
pub use self::vms::Vms;

use std::time::Duration;

/// How long anything may take that waits for a VM. An emulated boot takes 3 to 6 seconds on an idle
/// host; the rest is for hosts that do much else.
pub(crate) const DEADLINE: Duration = Duration::from_mins(3);
