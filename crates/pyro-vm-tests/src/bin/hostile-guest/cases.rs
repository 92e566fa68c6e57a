//! Every misbehaviour, by the moment at which it begins.

use std::net::Shutdown;
use std::time::Duration;

use pyro_protocol::frame::{CHUNK_BYTES_MAX, PAYLOAD_BYTES_MAX};
use pyro_protocol::guest::{BootPhase, BootReport, FromGuest};
use pyro_protocol::handshake::{Hello, STALE_BYTES_MAX, VERSION, Welcome};
use pyro_protocol::run::{ExitStatus, RunId, Stream};

use crate::flood;
use crate::guest::{Guest, die, send_to_network};

/// Cases by name.
pub(crate) type Table<Misbehave> = [(&'static str, Misbehave)];

/// Moves the cursor, sets the title, clears the screen, and begins lines in pyro's own voice.
const ESCAPES: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\r\nerror: \u{8}\u{0}";

const NO_RUN: RunId = RunId(4711);

const MESSAGE: u8 = 0;
const STDOUT: u8 = 2;
const UNKNOWN_KIND: u8 = 99;

/// When the supervisor has greeted.
pub(crate) const GREETING: &Table<fn(&mut Guest, Hello)> = &[
    ("dies before the greeting", |_, _| die()),
    ("exits with many last words", |guest, _| {
        last_words(guest);
        std::process::exit(3);
    }),
    ("greets with another nonce, and dies", |guest, hello| {
        let nonce = hello.nonce.map(|byte| !byte);
        guest.send(&Welcome { version: VERSION, nonce }.to_bytes());
        die();
    }),
    ("greets in another version", |guest, hello| {
        guest.send(&Welcome { version: VERSION + 1, nonce: hello.nonce }.to_bytes());
    }),
    ("greets never, and talks without end", |guest, _| {
        let junk = vec![0x7f; STALE_BYTES_MAX + 1024];
        guest.send(&junk);
    }),
    ("talks junk after the greeting", |guest, hello| {
        guest.send(&hello.welcome().to_bytes());
        guest.send(&[0xff; 100]);
    }),
    ("closes the port before the greeting", |guest, _| close(guest)),
    ("talks junk before the greeting, and then behaves", |guest, hello| {
        let stale = Welcome { version: VERSION, nonce: [0; 16] }.to_bytes();
        guest.send(&stale.repeat(100_000));
        guest.send(&hello.welcome().to_bytes());
        guest.next_message();
        guest.ready();
        let run = crate::asked_to_start(guest);
        guest.say(&FromGuest::Started { run });
        guest.exit(run, 7);
    }),
];

/// When the supervisor has configured the VM.
pub(crate) const CONFIGURATION: &Table<fn(&mut Guest)> = &[
    ("dies instead of being ready", |_| die()),
    ("closes the port instead of being ready", close),
    ("says something else instead of being ready", |guest| guest.say(&FromGuest::Pong)),
    ("has written a file before it is ready", |guest| guest.say(&FromGuest::FileWritten)),
    ("starts a run before it is ready", |guest| guest.say(&FromGuest::Started { run: NO_RUN })),
    ("sends output before it is ready", |guest| guest.write(NO_RUN, Stream::Stdout, b"early")),
    ("sends a message of 4 GiB before it is ready", |guest| oversized(guest, MESSAGE)),
    ("sends no message before it is ready", |guest| malformed(guest)),
    ("gives up with many words before it is ready", |guest| {
        guest.say(&FromGuest::Fatal { reason: many_words() });
    }),
    ("claims a text that is longer than its message", |guest| {
        // The variant, and a length of 4 GiB as postcard writes it.
        let fatal = 7;
        guest.send_frame(MESSAGE, RunId::NONE, 6, &[fatal, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    }),
    ("claims more phases than its message holds", |guest| {
        let ready = 0;
        guest.send_frame(MESSAGE, RunId::NONE, 7, &[ready, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    }),
    ("reports a boot of many words, and then behaves", |guest| {
        let phase = BootPhase { name: ESCAPES.repeat(200), since_kernel_start: Duration::MAX };
        let phases = vec![phase; 40];
        let kernel_release = ESCAPES.repeat(1000);
        guest.say(&FromGuest::Ready(BootReport { kernel_release, phases }));
        let run = crate::asked_to_start(guest);
        guest.say(&FromGuest::Started { run });
        guest.exit(run, 7);
    }),
];

/// When the supervisor has asked for a run.
pub(crate) const START: &Table<fn(&mut Guest, RunId)> = &[
    ("fails to start with many words", |guest, run| {
        guest.say(&FromGuest::StartFailed { run, reason: many_words() });
    }),
    ("fails to start another run", |guest, _| {
        guest.say(&FromGuest::StartFailed { run: NO_RUN, reason: String::new() });
    }),
    ("starts another run", |guest, _| guest.say(&FromGuest::Started { run: NO_RUN })),
    ("claims the exit of a run that never started", |guest, run| guest.exit(run, 0)),
    ("sends output of a run that never started", |guest, run| {
        guest.write(run, Stream::Stdout, b"early");
    }),
    ("takes input of a run that never started", |guest, run| {
        guest.say(&FromGuest::GrantStdin { run, bytes: 1 });
    }),
    ("never starts the run", |_, _| {}),
];

/// When it has started a run.
pub(crate) const RUN: &Table<fn(&mut Guest, RunId)> = &[
    ("sends a message of 4 GiB", |guest, _| oversized(guest, MESSAGE)),
    ("sends a chunk of 4 GiB", |guest, _| oversized(guest, STDOUT)),
    ("sends no message", |guest, _| malformed(guest)),
    ("sends a frame of an unknown kind", |guest, run| {
        guest.send_frame(UNKNOWN_KIND, run, 0, &[]);
    }),
    ("sends packets longer than any", |_, _| send_to_network(&[0xff; 4])),
    ("sends half a frame and dies", |guest, run| {
        guest.send_frame(STDOUT, run, 1000, b"half");
        die();
    }),
    ("sends more than it may", |guest, run| {
        // Whoever reads this grants more; but not as fast.
        loop {
            guest.write(run, Stream::Stderr, &[b'x'; CHUNK_BYTES_MAX]);
        }
    }),
    ("sends nothing as output", |guest, run| guest.send_frame(STDOUT, run, 0, &[])),
    ("sends output of no run", |guest, _| guest.write(NO_RUN, Stream::Stdout, b"whose?")),
    ("sends input", |guest, run| guest.send_frame(1, run, 1, b"x")),
    ("starts twice", |guest, run| guest.say(&FromGuest::Started { run })),
    ("fails to start what it has started", |guest, run| {
        guest.say(&FromGuest::StartFailed { run, reason: String::new() });
    }),
    ("claims the exit of no run", |guest, _| guest.exit(NO_RUN, 0)),
    ("claims an end by signal 0", |guest, run| signaled(guest, run, 0)),
    ("claims an end by signal 255", |guest, run| signaled(guest, run, 255)),
    ("takes no input", |guest, run| guest.say(&FromGuest::GrantStdin { run, bytes: 0 })),
    ("takes more input than there is", |guest, run| {
        guest.say(&FromGuest::GrantStdin { run, bytes: u32::MAX });
    }),
    ("is ready twice", |guest, _| guest.ready()),
    ("gives a sign of life unasked", |guest, _| guest.say(&FromGuest::Pong)),
    ("has written a file that nobody gave", |guest, _| guest.say(&FromGuest::FileWritten)),
    ("says goodbye unasked", |guest, _| guest.say(&FromGuest::Goodbye)),
    ("gives up with many words", |guest, _| {
        guest.say(&FromGuest::Fatal { reason: many_words() });
    }),
    ("gives up with more words than a frame holds", |guest, _| {
        let words = many_words().repeat(10);
        let length = u32::try_from(words.len()).unwrap();
        guest.send_frame(MESSAGE, RunId::NONE, length, words.as_bytes());
    }),
    ("closes the port and lives on", |guest, _| close(guest)),
    ("dies", |_, _| die()),
    ("exits as if all were well", |_, _| std::process::exit(0)),
    ("dies with many last words", |guest, _| {
        last_words(guest);
        die();
    }),
    ("exits twice", |guest, run| {
        guest.exit(run, 7);
        guest.exit(run, 8);
    }),
    ("sends output after the exit", |guest, run| {
        guest.exit(run, 7);
        guest.write(run, Stream::Stdout, b"late");
    }),
    ("never ends the run", |guest, _| {
        loop {
            guest.next_message();
        }
    }),
    ("floods console, monitor and standard error", flood::side_lines),
    ("floods console and monitor, and gives up", flood::side_lines_and_give_up),
    ("floods the port in the smallest of frames", flood::smallest_frames),
    ("never reads the port any more", |guest, run| guest.write(run, Stream::Stdout, b"deaf\n")),
];

pub(crate) fn find<Misbehave: Copy>(table: &Table<Misbehave>, case: &str) -> Option<Misbehave> {
    table.iter().find(|(name, _)| *name == case).map(|(_, misbehave)| *misbehave)
}

/// As many as a message holds.
fn many_words() -> String {
    ESCAPES.repeat((PAYLOAD_BYTES_MAX - 64) / ESCAPES.len())
}

/// More than is kept, in bytes that are no text as well.
fn last_words(guest: &mut Guest) {
    let words = [ESCAPES.as_bytes(), &vec![0xff; 20_000]].concat();
    flood::write(&mut guest.console, &words);
    flood::write(&mut std::io::stderr(), &words);
}

fn close(guest: &mut Guest) {
    guest.port.shutdown(Shutdown::Both).unwrap();
}

fn oversized(guest: &mut Guest, kind: u8) {
    guest.send_frame(kind, RunId::NONE, u32::MAX, &[0; 1000]);
}

fn malformed(guest: &mut Guest) {
    guest.send_frame(MESSAGE, RunId::NONE, 8, &[0xff; 8]);
}

fn signaled(guest: &mut Guest, run: RunId, signal: u8) {
    let status = ExitStatus::Signaled { signal };
    guest.say(&FromGuest::Exited { run, status, out_of_memory: false });
}
