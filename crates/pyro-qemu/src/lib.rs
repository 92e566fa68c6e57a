//! One QEMU process: which accelerator this host really has, the machine as a command line, and the
//! process from start to end.
//!
//! Knows nothing of environments or commands: it gets files, and gives a machine that runs.

pub mod accelerator;

pub mod machine;

pub mod monitor;

pub mod confinement;

mod spawn;

mod child;

pub mod process;

pub mod executable;

pub mod tsc;

mod untrusted;

mod sys;

/// What caused an error, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
