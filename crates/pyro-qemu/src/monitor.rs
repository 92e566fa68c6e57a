//! QEMU's monitor (QMP): freezing a machine, waking one that was frozen, and having one stand still.
//!
//! One JSON object per line, see QEMU's `docs/interop/qmp-spec.rst`. Commands are written without
//! waiting for answers, even before QEMU runs; so a restore costs no round trip.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;

use crate::machine::restored_state_uri;
use crate::untrusted;

/// The longest line QEMU sends here; what is longer is no answer to these commands.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// The host's end of a monitor.
#[derive(Debug)]
pub struct Monitor {
    stream: BufReader<UnixStream>,
}

/// Why a machine was not frozen or woken.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    #[error("QEMU's monitor broke")]
    Broken { source: io::Error },
    #[error("QEMU's monitor closed")]
    Closed,
    #[error("QEMU's monitor sent what is no QMP")]
    Malformed { source: serde_json::Error },
    #[error("QEMU refused a command: {reason}")]
    Refused { reason: String },
    #[error("QEMU could not move the machine's state ({status})")]
    MigrationFailed { status: String },
}

#[derive(Deserialize)]
struct Line {
    event: Option<String>,
    data: Option<EventData>,
    error: Option<QmpError>,
    /// Of the command that is answered, where it had one.
    id: Option<String>,
}

#[derive(Deserialize)]
struct EventData {
    status: Option<String>,
}

#[derive(Deserialize)]
struct QmpError {
    desc: String,
}

impl Monitor {
    pub fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Waits until QEMU greets, which it does when everything it was asked for is there.
    pub(crate) async fn greeted(&mut self) -> Result<(), MonitorError> {
        self.next_line().await.map(drop)
    }

    /// Asks QEMU to end by itself.
    pub(crate) async fn quit(&mut self) -> Result<(), MonitorError> {
        self.send(&[json!({ "execute": "qmp_capabilities" }), json!({ "execute": "quit" })]).await
    }

    /// Writes the device state of a running machine to `state`. On success the machine stands still,
    /// and its memory's file holds its memory.
    ///
    /// It is not stopped before: the state would say so, and whoever is restored from it would stand
    /// still as well.
    pub async fn freeze(&mut self, state: &OwnedFd) -> Result<(), MonitorError> {
        self.send(&handshake()).await?;
        let name = "state";
        let pass = [json!({ "execute": "getfd", "arguments": { "fdname": name } })];
        self.send_with_file(&pass, state).await?;
        self.send(&[migration("migrate", &format!("fd:{name}"))]).await?;
        self.migrated().await
    }

    /// Has QEMU read the device state that it has inherited, and then run. Returns once the commands
    /// are sent.
    pub async fn begin_restore(&mut self) -> Result<(), MonitorError> {
        self.send(&handshake()).await?;
        self.send(&[migration("migrate-incoming", &restored_state_uri())]).await
    }

    /// Waits until the machine of [`begin_restore`](Self::begin_restore) runs.
    pub async fn restored(&mut self) -> Result<(), MonitorError> {
        self.migrated().await
    }

    /// Has a machine that runs stand still: it uses no CPU, and its clocks do not go on. The conversation must have
    /// begun, as it has with one that was restored.
    pub async fn stop(&mut self) -> Result<(), MonitorError> {
        let name = "stop";
        self.send(&[json!({ "execute": name, "id": name })]).await?;
        // What was told before may have been taken by `pump` in part, so the first line may be the end of one.
        let mut is_first = true;
        loop {
            let line = match self.next_line().await {
                Err(MonitorError::Malformed { .. }) if is_first => None,
                line => Some(line?),
            };
            is_first = false;
            let Some(line) = line.filter(|line| line.id.as_deref() == Some(name)) else { continue };
            return match line.error {
                None => Ok(()),
                Some(error) => Err(MonitorError::Refused { reason: untrusted::lines(&error.desc) }),
            };
        }
    }

    /// Has a machine that stands still go on. Returns once the command is sent: the machine's first answer shows that
    /// it did.
    pub async fn resume(&mut self) -> Result<(), MonitorError> {
        self.send(&[json!({ "execute": "cont" })]).await
    }

    /// Takes what QEMU tells unasked, for as long as it lives, then waits for ever. Cancel-safe: a line
    /// that is cut is dropped with the rest of what nobody waits for.
    pub async fn pump(&mut self) -> std::convert::Infallible {
        let mut unread = [0; 4096];
        while let Ok(1..) = self.stream.read(&mut unread).await {}
        std::future::pending().await
    }

    async fn send(&mut self, commands: &[Value]) -> Result<(), MonitorError> {
        let written = self.stream.get_mut().write_all(lines(commands).as_bytes()).await;
        written.map_err(|source| MonitorError::Broken { source })
    }

    /// Sends short commands, and a descriptor for the first of them.
    async fn send_with_file(
        &mut self,
        commands: &[Value],
        file: &OwnedFd,
    ) -> Result<(), MonitorError> {
        let lines = lines(commands);
        let stream = self.stream.get_mut();
        let sent = stream.async_io(Interest::WRITABLE, || {
            let files = [file.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&files));
            let text = [IoSlice::new(lines.as_bytes())];
            Ok(sendmsg(&*stream, &text, &mut ancillary, SendFlags::NOSIGNAL)?)
        });
        match sent.await {
            Ok(count) if count == lines.len() => Ok(()),
            Ok(_) => Err(MonitorError::Broken { source: io::ErrorKind::WriteZero.into() }),
            Err(source) => Err(MonitorError::Broken { source }),
        }
    }

    async fn migrated(&mut self) -> Result<(), MonitorError> {
        loop {
            let line = self.next_line().await?;
            if let Some(error) = line.error {
                return Err(MonitorError::Refused { reason: untrusted::lines(&error.desc) });
            }
            if line.event.as_deref() != Some("MIGRATION") {
                continue;
            }
            match line.data.and_then(|data| data.status).as_deref() {
                Some("completed") => return Ok(()),
                Some(status @ ("failed" | "cancelled")) => {
                    return Err(MonitorError::MigrationFailed { status: status.to_owned() });
                }
                Some(_) | None => {}
            }
        }
    }

    async fn next_line(&mut self) -> Result<Line, MonitorError> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await;
        match read {
            Ok(0) => Err(MonitorError::Closed),
            Ok(_) => {
                serde_json::from_slice(&line).map_err(|source| MonitorError::Malformed { source })
            }
            Err(source) => Err(MonitorError::Broken { source }),
        }
    }
}

/// What every conversation begins with. `x-ignore-shared` leaves out memory that is mapped from a
/// file, which is all of it.
fn handshake() -> [Value; 2] {
    let capabilities = ["x-ignore-shared", "events"]
        .map(|capability| json!({ "capability": capability, "state": true }));
    [
        json!({ "execute": "qmp_capabilities" }),
        json!({
            "execute": "migrate-set-capabilities",
            "arguments": { "capabilities": capabilities },
        }),
    ]
}

fn migration(command: &str, uri: &str) -> Value {
    json!({ "execute": command, "arguments": { "uri": uri } })
}

fn lines(commands: &[Value]) -> String {
    commands.iter().fold(String::new(), |lines, command| lines + &format!("{command}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(said: &[u8]) -> MonitorError {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let said = said.to_vec();
        let tell = async move {
            let mut theirs = theirs;
            // It fails where nobody reads on.
            theirs.write_all(&said).await.ok();
        };
        let restore = async move { Monitor::new(ours).restored().await };
        let (restored, ()) = tokio::join!(restore, tell);
        restored.unwrap_err()
    }

    #[tokio::test]
    async fn a_refusal_is_told_without_control_characters() {
        let said = b"{\"event\": \"STOP\"}\n{\"error\": {\"desc\": \"\\u001b[2Jno\\u0007\"}}\n";
        assert_eq!(told(said).await.to_string(), "QEMU refused a command: [2Jno");
    }

    async fn stopped(said: &[u8]) -> Result<(), MonitorError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said).await.unwrap();
        Monitor::new(ours).stop().await
    }

    #[tokio::test]
    async fn what_was_told_before_is_no_answer_even_where_its_beginning_is_missing() {
        let stopped = stopped(
            b"tus\"}}\n{\"return\": {}}\n{\"event\": \"STOP\"}\n{\"return\": {}, \"id\": \"stop\"}\n",
        );
        stopped.await.unwrap();
    }

    #[tokio::test]
    async fn a_machine_that_is_not_stopped_is_told_from_one_that_is() {
        let refused = stopped(b"{\"error\": {\"desc\": \"no\"}, \"id\": \"stop\"}\n").await;
        assert!(matches!(refused, Err(MonitorError::Refused { .. })), "{refused:?}");
        let malformed = stopped(b"half\"}\nwhole\n").await;
        assert!(matches!(malformed, Err(MonitorError::Malformed { .. })), "{malformed:?}");
    }

    #[tokio::test]
    async fn a_line_longer_than_any_of_qemus_is_no_qmp() {
        let said = vec![b' '; 2 * usize::try_from(LINE_BYTES_MAX).unwrap()];
        assert!(matches!(told(&said).await, MonitorError::Malformed { .. }));
    }
}
