//! The user's terminal while a command in a VM has it: every key goes to the command, Ctrl-C included, and its
//! terminal has the size of this one.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use pyro_core::{ErrorKind, PyroError, TerminalSize};
use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What a program that draws expects of a terminal that does not tell.
const SIZE_DEFAULT: TerminalSize = TerminalSize { columns: 80, rows: 24 };

/// The terminal on standard input. It is the user's again when this is dropped.
#[derive(Debug)]
pub(crate) struct LentTerminal {
    size: watch::Sender<TerminalSize>,
    settings: Termios,
    is_lent: Mutex<bool>,
}

impl LentTerminal {
    /// Fails with `invalid_input` where standard input is no terminal.
    pub(crate) fn of_this_process() -> Result<Self, PyroError> {
        let settings = tcgetattr(std::io::stdin().as_fd()).map_err(|_| {
            PyroError::new(ErrorKind::InvalidInput, "`--tty` needs a terminal on standard input")
                .hint("leave it out: standard input is passed on in any case")
        })?;
        Ok(Self { size: watch::Sender::new(present_size()), settings, is_lent: Mutex::new(false) })
    }

    /// The size it has, and those that it will have.
    pub(crate) fn size(&self) -> watch::Receiver<TerminalSize> {
        self.size.subscribe()
    }

    /// From now on keys are only passed on.
    pub(crate) fn lend(&self) {
        let mut raw = self.settings.clone();
        raw.make_raw();
        *self.is_lent.lock().unwrap_or_else(PoisonError::into_inner) = true;
        // One that refuses has gone, and the input ends.
        tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &raw).ok();
    }

    /// Tells of changes of the size, and gives the terminal back for as long as this process is stopped.
    pub(crate) async fn follow(&self) -> Infallible {
        let changes = signal(SignalKind::window_change());
        let stops = signal(SignalKind::from_raw(Signal::TSTP.as_raw()));
        // Without them it keeps the size that it has.
        let (Ok(mut changes), Ok(mut stops)) = (changes, stops) else {
            return std::future::pending().await;
        };
        loop {
            // It may have changed since it was asked.
            self.size.send_replace(present_size());
            tokio::select! {
                _ = changes.recv() => {}
                _ = stops.recv() => {
                    self.take_back();
                    // It cannot fail for the process itself, which goes on here after a SIGCONT.
                    kill_process(getpid(), Signal::STOP).ok();
                    self.lend();
                }
            }
        }
    }

    fn take_back(&self) {
        if std::mem::take(&mut *self.is_lent.lock().unwrap_or_else(PoisonError::into_inner)) {
            tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.settings).ok();
        }
    }
}

impl Drop for LentTerminal {
    fn drop(&mut self) {
        self.take_back();
    }
}

fn present_size() -> TerminalSize {
    match tcgetwinsize(std::io::stdin().as_fd()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            TerminalSize { columns: size.ws_col, rows: size.ws_row }
        }
        Ok(_) | Err(_) => SIZE_DEFAULT,
    }
}
