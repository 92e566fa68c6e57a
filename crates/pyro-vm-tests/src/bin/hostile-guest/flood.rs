//! More of everything than anybody can read.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver};

use pyro_protocol::credit::WINDOW_BYTES;
use pyro_protocol::frame::{FrameKind, encode_chunk};
use pyro_protocol::guest::{FromGuest, ToGuest};
use pyro_protocol::run::{RunId, Stream};

use crate::guest::{Guest, rest};

/// What each line has taken when the test is told that it is flooded.
const FLOOD_BYTES: usize = 1 << 30;

/// What shows that a flood is on its way.
const FIRST_BYTES: usize = 8 << 20;

/// A flood of the monitor: lines that are no QMP, and longer than any of QEMU's.
const LINE_BYTES: usize = 1 << 20;

/// Writes as fast as the output is read.
pub(crate) fn output_within_credit(guest: &mut Guest, run: RunId) {
    let mut credit = WINDOW_BYTES as usize;
    loop {
        guest.write(run, Stream::Stdout, &vec![b'y'; credit]);
        credit = match guest.next_message() {
            ToGuest::GrantOutput { bytes, .. } => bytes as usize,
            _ => rest(),
        };
    }
}

/// Says `flooded` when the supervisor has taken a gigabyte from the console and one from the monitor,
/// and goes on. Never ends the run.
pub(crate) fn side_lines(guest: &mut Guest, run: RunId) {
    flood_side_lines(guest, FLOOD_BYTES);
    guest.write(run, Stream::Stdout, b"flooded\n");
}

/// Gives up while nobody could ever read the console to its end.
pub(crate) fn side_lines_and_give_up(guest: &mut Guest, _run: RunId) {
    flood_side_lines(guest, FIRST_BYTES);
    guest.say(&FromGuest::Fatal { reason: "enough".to_owned() });
}

/// One byte per frame until there is no credit any more, for a client that reads nothing.
pub(crate) fn smallest_frames(guest: &mut Guest, run: RunId) {
    let frame = encode_chunk(FrameKind::Output(Stream::Stdout), run, b"x").unwrap();
    guest.send(&frame.repeat(WINDOW_BYTES as usize));
    guest.write(run, Stream::Stderr, b"flooded\n");
}

/// Writes, unless nobody listens any more.
pub(crate) fn write(stream: &mut impl Write, bytes: &[u8]) {
    stream.write_all(bytes).ok();
}

/// Floods from threads of their own, for ever. Returns when console and monitor have taken `bytes` each.
fn flood_side_lines(guest: &Guest, bytes: usize) {
    let complaint = b"\x1b[2Jcomplaint\n".repeat(5000);
    let text = b"\x1b[2Jnonsense\r\n".repeat(5000);
    let line = [&vec![b'{'; LINE_BYTES][..], b"\n"].concat();
    std::thread::spawn(move || flood(std::io::stderr(), &complaint));
    let floods = [
        flood_and_tell(guest.console.try_clone().unwrap(), text, bytes),
        flood_and_tell(guest.monitor.try_clone().unwrap(), line, bytes),
    ];
    for has_taken in floods {
        has_taken.recv().unwrap();
    }
}

fn flood_and_tell(mut stream: UnixStream, piece: Vec<u8>, bytes: usize) -> Receiver<()> {
    let (taken, has_taken) = mpsc::channel();
    std::thread::spawn(move || {
        for _ in 0..bytes / piece.len() {
            write(&mut stream, &piece);
        }
        taken.send(()).unwrap();
        flood(stream, &piece);
    });
    has_taken
}

fn flood(mut stream: impl Write, piece: &[u8]) {
    while stream.write_all(piece).is_ok() {}
}
