//! Manual pages and completion scripts, made from the command line itself.

use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use pyro_core::{ErrorKind, PyroError};

use crate::arguments::Arguments;

/// Where manuals are, below a `share` directory.
const MANUALS: &str = "man/man1";

/// The shells that look into a directory of the system for completions, with pyro's file in it.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/pyro"),
    (Shell::Zsh, "zsh/site-functions/_pyro"),
    (Shell::Fish, "fish/vendor_completions.d/pyro.fish"),
];

/// The script with which a shell completes calls of `pyro`.
pub(super) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "pyro", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a manual page of every command, and completions of every shell that has a place for them, below a `share`
/// directory. What is there is replaced.
pub(super) fn write(share: &Path) -> Result<(), PyroError> {
    write_all(share).map_err(|error| {
        PyroError::from_error(ErrorKind::Internal, &error)
            .context(format!("cannot write manual pages below `{}`", share.display()))
            .hint("name a directory in which you may write")
    })
}

fn write_all(share: &Path) -> io::Result<()> {
    let manuals = share.join(MANUALS);
    fs_err::create_dir_all(&manuals)?;
    // `pyro vm list` is in `pyro-vm-list.1`, as `man pyro vm list` looks for it.
    clap_mangen::generate_to(Arguments::command(), manuals)?;
    for (shell, file) in COMPLETIONS {
        let file = share.join(file);
        if let Some(directory) = file.parent() {
            fs_err::create_dir_all(directory)?;
        }
        fs_err::write(file, completions(shell))?;
    }
    Ok(())
}
