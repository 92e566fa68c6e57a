//! What the supervisor sees of a guest: the agent's port, the console, and QEMU's monitor.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use pyro_protocol::frame::{
    CHUNK_BYTES_MAX, FrameDecoder, FrameKind, decode_message, encode_chunk, encode_message,
};
use pyro_protocol::guest::{BootReport, FromGuest, ToGuest};
use pyro_protocol::handshake::{Hello, HelloScanner};
use pyro_protocol::run::{ExitStatus, RunId, Stream};

use crate::sys::inherited_socket;

/// See `child_fd` in `pyro-qemu`'s `machine.rs`.
const PORT_FD: i32 = 3;
const CONSOLE_FD: i32 = 4;
pub(crate) const MONITOR_FD: i32 = 5;
const NETWORK_FD: i32 = 10;

/// Writes into the line of QEMU's network device. Only once, where there is one.
pub(crate) fn send_to_network(bytes: &[u8]) {
    inherited_socket(NETWORK_FD).write_all(bytes).unwrap();
}

pub(crate) struct Guest {
    pub(crate) port: UnixStream,
    pub(crate) console: UnixStream,
    pub(crate) monitor: UnixStream,
    decoder: FrameDecoder,
    /// How much it may still send before it dies.
    bytes_to_live: usize,
}

impl Guest {
    pub(crate) fn inherited() -> Self {
        Self {
            port: inherited_socket(PORT_FD),
            console: inherited_socket(CONSOLE_FD),
            monitor: inherited_socket(MONITOR_FD),
            decoder: FrameDecoder::default(),
            bytes_to_live: usize::MAX,
        }
    }

    pub(crate) fn die_after(&mut self, bytes: usize) {
        self.bytes_to_live = bytes;
    }

    /// Waits for the supervisor's greeting.
    pub(crate) fn hello(&mut self) -> Hello {
        let mut scanner = HelloScanner::default();
        loop {
            let bytes = self.receive();
            if let Some((hello, rest)) = scanner.push(&bytes).unwrap() {
                self.decoder.push(&rest);
                return hello;
            }
        }
    }

    /// Waits for the next message, whatever input comes before it.
    pub(crate) fn next_message(&mut self) -> ToGuest {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                if frame.kind == FrameKind::Message {
                    return decode_message(&frame.payload).unwrap();
                }
                continue;
            }
            let bytes = self.receive();
            self.decoder.push(&bytes);
        }
    }

    pub(crate) fn ready(&mut self) {
        let kernel_release = "of a stand-in".to_owned();
        self.say(&FromGuest::Ready(BootReport { kernel_release, phases: Vec::new() }));
    }

    pub(crate) fn exit(&mut self, run: RunId, code: u8) {
        let status = ExitStatus::Exited { code };
        self.say(&FromGuest::Exited { run, status, out_of_memory: false });
    }

    pub(crate) fn say(&mut self, message: &FromGuest) {
        self.send(&encode_message(message).unwrap());
    }

    pub(crate) fn write(&mut self, run: RunId, stream: Stream, bytes: &[u8]) {
        for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
            self.send(&encode_chunk(FrameKind::Output(stream), run, chunk).unwrap());
        }
    }

    /// Sends a frame that may break every rule.
    pub(crate) fn send_frame(&mut self, kind: u8, run: RunId, length: u32, payload: &[u8]) {
        let header = [&[kind][..], &run.0.to_le_bytes(), &length.to_le_bytes()].concat();
        self.send(&[&header, payload].concat());
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(self.bytes_to_live);
        self.bytes_to_live -= count;
        if self.port.write_all(&bytes[..count]).is_err() {
            rest();
        }
        if self.bytes_to_live == 0 {
            die();
        }
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 64 * 1024];
        match self.port.read(&mut buffer) {
            Ok(count @ 1..) => {
                buffer.truncate(count);
                buffer
            }
            Ok(0) | Err(_) => rest(),
        }
    }
}

/// Does nothing until it is killed.
pub(crate) fn rest() -> ! {
    loop {
        std::thread::park();
    }
}

/// Dies by a signal. As the first process of its namespace it cannot send one to itself, but it can
/// execute what it must not.
pub(crate) fn die() -> ! {
    std::process::abort()
}
