//! A hostile guest, in QEMU's place.
//!
//! For the supervisor QEMU is a program that inherits sockets. This one is found under QEMU's name,
//! inherits the same sockets, and is confined in the same way; it behaves like an agent up to the point
//! at which its case begins, and then does what no honest agent does. The case is named by the file
//! `case` beside it, because the supervisor passes no environment, and arguments are QEMU's.

#![allow(clippy::unwrap_used, reason = "a stand-in that panics fails its test")]

mod cases;

mod flood;

mod guest;

mod sys;

use std::io::Write;
use std::path::PathBuf;

use pyro_protocol::guest::{FromGuest, ToGuest};
use pyro_protocol::run::RunId;

use crate::cases::{CONFIGURATION, GREETING, RUN, START, find};
use crate::guest::{Guest, MONITOR_FD, rest};

/// The case that may begin anywhere: behaves well, and dies when it has sent this many bytes.
const DEATH: &str = "dies after bytes ";

fn main() {
    let mut arguments = std::env::args();
    let program = PathBuf::from(arguments.next().unwrap());
    // An empty machine, to see whether a confined QEMU comes up and can be ended: it does, and can.
    if arguments.any(|argument| argument.starts_with("none,")) {
        let mut monitor = sys::inherited_socket(MONITOR_FD);
        monitor.write_all(b"{\"QMP\": {}}\n").unwrap();
        rest();
    }
    let case = fs_err::read_to_string(program.with_file_name("case")).unwrap();
    // It closes nothing while it lives.
    let mut guest = Guest::inherited();
    play(&case, &mut guest);
    rest();
}

/// Behaves well until `case` begins.
fn play(case: &str, guest: &mut Guest) {
    if let Some(bytes) = case.strip_prefix(DEATH) {
        guest.die_after(bytes.parse().unwrap());
    }
    let hello = guest.hello();
    if let Some(misbehave) = find(GREETING, case) {
        return misbehave(guest, hello);
    }
    guest.send(&hello.welcome().to_bytes());
    assert!(matches!(guest.next_message(), ToGuest::Configure(_)));
    if let Some(misbehave) = find(CONFIGURATION, case) {
        return misbehave(guest);
    }
    guest.ready();
    let run = asked_to_start(guest);
    if let Some(misbehave) = find(START, case) {
        return misbehave(guest, run);
    }
    guest.say(&FromGuest::Started { run });
    if let Some(misbehave) = find(RUN, case) {
        return misbehave(guest, run);
    }
    assert!(case.starts_with(DEATH), "no such case: `{case}`");
    flood::output_within_credit(guest, run);
}

fn asked_to_start(guest: &mut Guest) -> RunId {
    match guest.next_message() {
        ToGuest::Start { run, .. } => run,
        other => panic!("a start, not {other:?}"),
    }
}
