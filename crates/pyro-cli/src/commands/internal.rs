//! What pyro calls itself for, and whoever packs it: processes of their own that are no commands for people, and so are
//! not part of the command line.

use std::ffi::OsString;
use std::process::ExitCode;

use pyro_core::{
    Accelerator, INTERNAL_KEEP_SPARES, INTERNAL_PROBE_CONFINEMENT, INTERNAL_PROBE_KVM,
    INTERNAL_SUPERVISE,
};

use super::pages;
use crate::terminal;

/// First and second word of the command line with which whoever packs pyro has it write its manual pages and completions;
/// then follows the directory.
const WRITE_PAGES: [&str; 2] = ["internal", "write-pages"];

/// Does what `words` ask for, if they come from pyro itself.
pub(crate) fn execute(words: &[OsString]) -> Option<ExitCode> {
    if words == INTERNAL_SUPERVISE {
        Some(pyro_core::serve_inherited_socket())
    } else if words == INTERNAL_PROBE_KVM {
        let printed = terminal::print_json(&pyro_core::probe_kvm());
        Some(terminal::exit_code(printed, ExitCode::SUCCESS, 1))
    } else if words == INTERNAL_KEEP_SPARES {
        Some(keep_spares())
    } else if let [first, second, accelerator, qemu] = words
        && INTERNAL_PROBE_CONFINEMENT == [first, second]
    {
        let accelerator = [Accelerator::Kvm, Accelerator::Tcg]
            .into_iter()
            .find(|known| accelerator == known.name())?;
        let probe = pyro_core::probe_confinement(qemu.as_ref(), accelerator);
        Some(match super::block_on(probe) {
            Ok(found) => terminal::exit_code(terminal::print_json(&found), ExitCode::SUCCESS, 1),
            Err(failure) => {
                terminal::fail(&failure, false);
                ExitCode::FAILURE
            }
        })
    } else if let [first, second, directory] = words
        && WRITE_PAGES == [first, second]
    {
        Some(match pages::write(directory.as_ref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                terminal::fail(&failure, false);
                ExitCode::FAILURE
            }
        })
    } else {
        None
    }
}

fn keep_spares() -> ExitCode {
    let Ok(pyro) = super::pyro(None) else { return ExitCode::FAILURE };
    let served =
        super::block_on(async { pyro.serve_keeper(crate::interrupt::interrupted()).await });
    if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
