//! The standard streams of a command: pipes, or a terminal.

use std::os::fd::OwnedFd;

use pyro_protocol::run::{Stdin, TerminalSize};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec, ioctl_fionbio};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// The command's ends.
#[derive(Debug)]
pub(crate) struct CommandEnds {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) control: Control,
}

/// Whether the streams are the terminal that controls the command's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    ByNothing,
    ByTerminal,
}

/// This side's ends, which do not block.
#[derive(Debug)]
pub(crate) enum AgentEnds {
    Pipes {
        /// `None` where the command reads `/dev/null`.
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// The same terminal three times, each with an owner of its own.
    Terminal { input: OwnedFd, output: OwnedFd, control: OwnedFd },
}

/// Makes the streams of a command.
pub(crate) fn make(stdin: Stdin) -> Result<(CommandEnds, AgentEnds), Errno> {
    let (stdin, stdin_here) = match stdin {
        Stdin::Terminal(size) => return terminal(size),
        Stdin::Empty => {
            let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            (null, None)
        }
        Stdin::Piped => {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            ioctl_fionbio(&writer, true)?;
            (reader, Some(writer))
        }
    };
    let (stdout_here, stdout) = output_pipe()?;
    let (stderr_here, stderr) = output_pipe()?;
    Ok((
        CommandEnds { stdin, stdout, stderr, control: Control::ByNothing },
        AgentEnds::Pipes { stdin: stdin_here, stdout: stdout_here, stderr: stderr_here },
    ))
}

/// Tells a terminal its size; whoever is in its foreground gets a SIGWINCH.
pub(crate) fn resize(terminal: &OwnedFd, size: TerminalSize) -> Result<(), Errno> {
    let TerminalSize { columns, rows } = size;
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
}

fn terminal(size: TerminalSize) -> Result<(CommandEnds, AgentEnds), Errno> {
    // Neither may become the agent's controlling terminal.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let control = openpt(flags)?;
    unlockpt(&control)?;
    let stdin = ioctl_tiocgptpeer(&control, flags)?;
    resize(&control, size)?;
    ioctl_fionbio(&control, true)?;
    let (stdout, stderr) = (again(&stdin)?, again(&stdin)?);
    let (input, output) = (again(&control)?, again(&control)?);
    Ok((
        CommandEnds { stdin, stdout, stderr, control: Control::ByTerminal },
        AgentEnds::Terminal { input, output, control },
    ))
}

fn again(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    fcntl_dupfd_cloexec(fd, 0)
}

/// A pipe whose reading end, this side's, does not block. The command's end does: hardly any
/// program is prepared for an output that has no room.
fn output_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    ioctl_fionbio(&reader, true)?;
    Ok((reader, writer))
}
