//! What pyro calls itself for: processes of their own that are no commands for people, and so are not
//! part of the command line.

use std::ffi::OsString;
use std::process::ExitCode;

use pyro_core::{INTERNAL_PROBE_KVM, INTERNAL_SUPERVISE};

use crate::terminal;

/// Does what `words` ask for, if they come from pyro itself.
pub(crate) fn execute(words: &[OsString]) -> Option<ExitCode> {
    if words == INTERNAL_SUPERVISE {
        Some(pyro_core::serve_inherited_socket())
    } else if words == INTERNAL_PROBE_KVM {
        let printed = terminal::print_json(&pyro_core::probe_kvm());
        Some(terminal::exit_code(printed, ExitCode::SUCCESS, 1))
    } else {
        None
    }
}
