//! QEMU's monitor (QMP): freezing a machine, waking one that was frozen, and having one stand still.
//!
//! One JSON object per line, see QEMU's `docs/interop/qmp-spec.rst`. Commands are written without
//! waiting for answers, even before QEMU runs; so a restore costs no round trip.
//!
//! The state of a machine's devices goes through a socket of its own: QEMU 11 refuses `fd:` with a file, for which it
//! has `file:`, and QEMU 7.2 does not know that. Sockets both take.

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

/// The most that the state of a machine's devices takes. It was seen to have 60 KiB.
const STATE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why a migration failed is the answer to the question after it, but for events. QEMU sends no more of them.
const LINES_BEFORE_REASON_MAX: usize = 16;

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
    #[error("QEMU could not move the machine's state: {reason}")]
    MigrationFailed { reason: String },
    #[error("the line for the machine's state broke")]
    StateLost { source: io::Error },
    #[error("the machine's state has more than {STATE_BYTES_MAX} bytes")]
    StateTooLong,
}

#[derive(Deserialize)]
struct Line {
    event: Option<String>,
    data: Option<EventData>,
    error: Option<QmpError>,
    #[serde(rename = "return")]
    answer: Option<Answer>,
    /// Of the command that is answered, where it had one.
    id: Option<String>,
}

#[derive(Deserialize)]
struct EventData {
    status: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "error-desc")]
    failure: Option<String>,
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

    /// The device state of a running machine. On success the machine stands still, and its memory's file holds its
    /// memory.
    ///
    /// It is not stopped before: the state would say so, and whoever is restored from it would stand
    /// still as well.
    pub async fn freeze(&mut self) -> Result<Vec<u8>, MonitorError> {
        let lost = |source| MonitorError::StateLost { source };
        self.send(&handshake()).await?;
        let (ours, its) = std::os::unix::net::UnixStream::pair().map_err(lost)?;
        ours.set_nonblocking(true).map_err(lost)?;
        let ours = UnixStream::from_std(ours).map_err(lost)?;
        let name = "state";
        let pass = [json!({ "execute": "getfd", "arguments": { "fdname": name } })];
        // From then on only QEMU has its end, and closes it behind the state.
        self.send_with_file(&pass, its.into()).await?;
        self.send(&[migration("migrate", &format!("fd:{name}"))]).await?;
        let ((), state) = tokio::try_join!(self.migrated(), received(ours))?;
        Ok(state)
    }

    /// Has QEMU read the device state from the line that it has inherited, and then run. Returns once the commands
    /// are sent.
    pub async fn begin_restore(&mut self) -> Result<(), MonitorError> {
        self.send(&handshake()).await?;
        self.send(&[migration("migrate-incoming", &restored_state_uri())]).await
    }

    /// Sends `state` over the host's end of that line, and waits until the machine of
    /// [`begin_restore`](Self::begin_restore) runs.
    pub async fn restored(&mut self, line: UnixStream, state: &[u8]) -> Result<(), MonitorError> {
        let give = async move {
            let mut line = line;
            // A QEMU that does not take it says why, or dies.
            line.write_all(state).await.ok();
        };
        tokio::join!(self.migrated(), give).0
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
        file: OwnedFd,
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
                    let reason = self.why_migration_failed().await;
                    let reason = reason.unwrap_or_else(|| status.to_owned());
                    return Err(MonitorError::MigrationFailed { reason });
                }
                Some(_) | None => {}
            }
        }
    }

    /// `None` where QEMU does not tell, as when it has ended.
    async fn why_migration_failed(&mut self) -> Option<String> {
        let name = "why";
        self.send(&[json!({ "execute": "query-migrate", "id": name })]).await.ok()?;
        for _ in 0..LINES_BEFORE_REASON_MAX {
            let line = self.next_line().await.ok()?;
            if line.id.as_deref() == Some(name) {
                return line.answer?.failure.map(|reason| untrusted::lines(&reason));
            }
        }
        None
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

/// The state that QEMU sends, to its end.
async fn received(line: UnixStream) -> Result<Vec<u8>, MonitorError> {
    let mut state = Vec::new();
    let read = line.take(STATE_BYTES_MAX + 1).read_to_end(&mut state).await;
    let count = read.map_err(|source| MonitorError::StateLost { source })?;
    if count as u64 > STATE_BYTES_MAX { Err(MonitorError::StateTooLong) } else { Ok(state) }
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
    use std::io::IoSliceMut;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    async fn told(said: &[u8]) -> MonitorError {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let said = said.to_vec();
        let tell = async move {
            let mut theirs = theirs;
            // It fails where nobody reads on.
            theirs.write_all(&said).await.ok();
        };
        let (line, _its) = UnixStream::pair().unwrap();
        let restore = async move { Monitor::new(ours).restored(line, b"state").await };
        let (restored, ()) = tokio::join!(restore, tell);
        restored.unwrap_err()
    }

    /// A freeze by a QEMU that answers each of the first commands, the last with these lines, then with `reason`.
    async fn frozen(state: &[u8], end: &str, reason: &str) -> Result<Vec<u8>, MonitorError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let qemu = async move {
            let mut buffer = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut line = None;
            let mut said = Vec::new();
            while !String::from_utf8_lossy(&said).contains("fd:state") {
                let received = theirs.async_io(Interest::READABLE, || {
                    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                    let mut text = [IoSliceMut::new(&mut buffer)];
                    let got = recvmsg(&theirs, &mut text, &mut ancillary, RecvFlags::empty())?;
                    for message in ancillary.drain() {
                        if let RecvAncillaryMessage::ScmRights(files) = message {
                            line = files.last().or(line.take());
                        }
                    }
                    Ok(got.bytes)
                });
                let count = received.await.unwrap();
                said.extend_from_slice(&buffer[..count]);
            }
            let line = std::os::unix::net::UnixStream::from(line.unwrap());
            std::io::Write::write_all(&mut &line, state).unwrap();
            drop(line);
            let mut theirs = theirs;
            theirs.write_all(format!("{end}\n{reason}\n").as_bytes()).await.unwrap();
            theirs
        };
        let freeze = async move { Monitor::new(ours).freeze().await };
        let (frozen, _theirs) = tokio::join!(freeze, qemu);
        frozen
    }

    fn event(status: &str) -> String {
        json!({ "event": "MIGRATION", "data": { "status": status } }).to_string()
    }

    #[tokio::test]
    async fn the_state_of_a_frozen_machine_is_what_came_before_the_end_of_its_line() {
        let state = frozen(b"devices", &event("completed"), "").await.unwrap();
        assert_eq!(state, b"devices");
    }

    #[tokio::test]
    async fn a_machine_that_cannot_be_frozen_is_so_for_qemus_reason() {
        let answer = json!({ "id": "why", "return": { "error-desc": "no\u{7} \u{1b}[2Jway" } });
        let error = frozen(b"", &event("failed"), &answer.to_string()).await.unwrap_err();
        let told = "QEMU could not move the machine's state: no [2Jway";
        assert_eq!(error.to_string(), told);
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
