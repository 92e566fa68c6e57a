//! The last words to the host, and the end of the machine.

use std::time::{Duration, Instant};

use pyro_protocol::frame::encode_message;
use pyro_protocol::guest::FromGuest;
use rustix::event::Timespec;
use rustix::process::{WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};

use crate::conversation::Conversation;
use crate::port::{Port, Received};
use crate::root::Scratch;
use crate::{console, sys};

/// How long the host has to take the last words.
const LAST_WORDS_DEADLINE: Duration = Duration::from_secs(3);

/// Ends every process, leaves the scratch disk clean, says goodbye.
pub(crate) fn part(mut port: Port, scratch: &Scratch) {
    end_all_processes();
    if let Err(error) = scratch.make_read_only() {
        // No goodbye: it would promise a clean disk.
        fail(port, format!("the scratch disk is not clean: {error}"));
        return;
    }
    say(&mut port, &FromGuest::Goodbye);
}

/// Says that the VM is of no use, and why.
pub(crate) fn fail(mut port: Port, reason: String) {
    console::line(&reason);
    let reason = console::truncated(reason);
    say(&mut port, &FromGuest::Fatal { reason });
}

/// Says that the boot failed, to a host that has yet to greet.
pub(crate) fn fail_before_greeting(mut port: Port, reason: String) {
    let mut conversation = Conversation::default();
    let mut buffer = [0; 4096];
    let deadline = Instant::now() + LAST_WORDS_DEADLINE;
    let hello = loop {
        match port.receive(&mut buffer) {
            Ok(Received::Bytes(length)) => {
                if let Some(hello) = conversation.push(&buffer[..length]) {
                    break hello;
                }
            }
            Ok(Received::Nothing | Received::HangUp) if wait_for(&port, deadline) => {}
            Ok(_) | Err(_) => {
                console::line(&reason);
                return;
            }
        }
    };
    port.send(&hello.welcome().to_bytes());
    fail(port, reason);
}

/// Ends the machine: QEMU, started with `-no-reboot`, exits when it restarts. To power off instead
/// takes ACPI, and a kernel without it would halt with QEMU running.
pub(crate) fn restart() -> ! {
    rustix::fs::sync();
    // Cannot fail for PID 1; if it did, the kernel panics when PID 1 ends, which restarts too.
    let error = reboot(RebootCommand::Restart);
    panic!("cannot restart: {error:?}");
}

fn say(port: &mut Port, message: &FromGuest) {
    let Ok(frame) = encode_message(message) else {
        return;
    };
    port.send(&frame);
    let deadline = Instant::now() + LAST_WORDS_DEADLINE;
    while port.flush().is_ok() && !port.is_flushed() && wait_for(port, deadline) {}
}

/// Waits for the port; false once the deadline has passed.
fn wait_for(port: &Port, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let Ok(timeout) = Timespec::try_from(left) else {
        return false;
    };
    !left.is_zero() && port.wait(timeout).is_ok()
}

/// A process that forks while all are being killed takes its child along: the kernel refuses to
/// fork for one with a signal pending.
fn end_all_processes() {
    if sys::kill_all_processes().is_ok() {
        // Every orphan is a child of PID 1, so none is left when there are no children.
        while wait(WaitOptions::empty()).is_ok() {}
    }
}
