//! Who may send what, and when it is too late: the pure heart of a supervisor.
//!
//! Frames of both sides and the time go in, frames for both sides come out; there is no I/O here.
//! The guest is hostile: whatever it sends is checked against what its runs may do.
//!
//! ```text
//!   client's Start                        agent's Exited
//!   ──────────────► running ─────────────────────────────────► Ended (finished)
//!                      │ time-out, or client's Cancel
//!                      ▼   (Kill goes to the agent)
//!                   ending  ────────── agent's Exited ───────► Ended (timed out, cancelled)
//!                      │
//!                      └──── no Exited within the grace ─────► VM destroyed, Ended all the same
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pyro_protocol::client::{EndReason, FromSupervisor, RunEnd, ToSupervisor};
use pyro_protocol::credit::{Credit, CreditExceeded};
use pyro_protocol::failure::{Failure, FailureKind};
use pyro_protocol::frame::{
    Frame, FrameError, FrameKind, decode_message, encode_chunk, encode_message,
};
use pyro_protocol::guest::{FromGuest, ToGuest};
use pyro_protocol::run::{ExitStatus, RunId, Stream};

use crate::untrusted::text;

/// From the order to kill a run to the end of the agent's patience: the agent has every process
/// killed by the kernel at once, so a guest that needs longer does not work any more.
const KILL_GRACE: Duration = Duration::from_secs(10);

/// Longer than any VM lives, and short enough to be added to any clock: a client may name any number.
pub(crate) const WAIT_MAX: Duration = Duration::from_hours(365 * 24);

/// SIGKILL, the signal that ended a run whose VM was destroyed under it.
const SIGKILL: u8 = 9;

/// Every signal that Linux has, see signal(7).
const SIGNALS: std::ops::RangeInclusive<u8> = 1..=64;

/// What is to be sent after an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    ToGuest(Vec<u8>),
    ToClient(Vec<u8>),
}

/// The state of all runs of one VM.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    runs: BTreeMap<RunId, Run>,
}

#[derive(Debug)]
struct Run {
    /// Whether the agent says that the command is being executed.
    progress: Progress,
    state: RunState,
    started: Instant,
    /// When the present state has lasted too long.
    deadline: Instant,
    stdin: Credit,
    stdout: Credit,
    stderr: Credit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Requested,
    Started,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RunState {
    Running,
    Ending(EndReason),
}

/// The guest did what an honest agent never does, or nothing at all. The VM must be destroyed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestFault {
    #[error("the guest's agent broke the protocol")]
    Malformed { source: FrameError },
    #[error("the guest's agent sent more than it may")]
    BeyondCredit { source: CreditExceeded },
    #[error("the guest's agent spoke of a run that does not exist")]
    UnknownRun,
    #[error("the guest's agent sent a message out of turn")]
    OutOfTurn,
    #[error("the guest's agent told of an end by signal {signal}, which Linux does not have")]
    NoSignal { signal: u8 },
    #[error("the guest's agent gave up: {reason}")]
    GaveUp { reason: String },
    #[error("the guest's agent does not read what it is sent")]
    Deaf,
    #[error("the guest did not end a command within {} seconds", KILL_GRACE.as_secs())]
    Unresponsive,
}

/// The client did what an honest client never does.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientFault {
    #[error("the client broke the protocol")]
    Malformed { source: FrameError },
    #[error("the client sent or granted more than it may")]
    BeyondCredit { source: CreditExceeded },
    #[error("the client sent a message out of turn")]
    OutOfTurn,
}

impl Conversation {
    /// Takes a frame of the client.
    pub(crate) fn client_sent(
        &mut self,
        frame: &Frame,
        now: Instant,
    ) -> Result<Vec<Outgoing>, ClientFault> {
        match frame.kind {
            FrameKind::Message => {
                let message = decode_message(&frame.payload)
                    .map_err(|source| ClientFault::Malformed { source })?;
                self.client_asked(message, now)
            }
            FrameKind::Stdin => {
                // The run may have ended while its input was on the way.
                let Some(run) = self.runs.get_mut(&frame.run) else {
                    return Ok(Vec::new());
                };
                run.stdin
                    .spend(frame.payload.len())
                    .map_err(|source| ClientFault::BeyondCredit { source })?;
                let chunk = encode_chunk(frame.kind, frame.run, &frame.payload)
                    .map_err(|source| ClientFault::Malformed { source })?;
                Ok(vec![Outgoing::ToGuest(chunk)])
            }
            FrameKind::Output(_) => Err(ClientFault::OutOfTurn),
        }
    }

    /// Takes a frame of the guest.
    pub(crate) fn guest_sent(
        &mut self,
        frame: &Frame,
        now: Instant,
    ) -> Result<Vec<Outgoing>, GuestFault> {
        match frame.kind {
            FrameKind::Message => {
                let message = decode_message(&frame.payload)
                    .map_err(|source| GuestFault::Malformed { source })?;
                self.guest_told(message, now)
            }
            FrameKind::Output(stream) => {
                // It would cost no credit, and so could be sent without end.
                if frame.payload.is_empty() {
                    return Err(GuestFault::OutOfTurn);
                }
                let run = self.run_of_guest(frame.run, Progress::Started)?;
                run.output_credit(stream)
                    .spend(frame.payload.len())
                    .map_err(|source| GuestFault::BeyondCredit { source })?;
                let chunk = encode_chunk(frame.kind, frame.run, &frame.payload)
                    .map_err(|source| GuestFault::Malformed { source })?;
                Ok(vec![Outgoing::ToClient(chunk)])
            }
            FrameKind::Stdin => Err(GuestFault::OutOfTurn),
        }
    }

    /// When [`deadline_reached`](Self::deadline_reached) is due next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.runs.values().map(|run| run.deadline).min()
    }

    /// Ends the runs whose time is over.
    pub(crate) fn deadline_reached(&mut self, now: Instant) -> Result<Vec<Outgoing>, GuestFault> {
        let mut outgoing = Vec::new();
        for (id, run) in self.runs.iter_mut().filter(|(_, run)| run.deadline <= now) {
            match run.state {
                RunState::Running => outgoing.push(run.end(*id, EndReason::TimedOut, now)),
                RunState::Ending(_) => return Err(GuestFault::Unresponsive),
            }
        }
        Ok(outgoing)
    }

    /// Ends every run because the VM is gone. Runs that were being ended have got what was asked
    /// for; the others fail with `failure`.
    pub(crate) fn vm_gone(&mut self, failure: &Failure, now: Instant) -> Vec<Outgoing> {
        let runs = std::mem::take(&mut self.runs);
        let messages = runs.into_iter().map(|(id, run)| match run.state {
            RunState::Running => FromSupervisor::RunFailed { run: id, failure: failure.clone() },
            RunState::Ending(reason) => {
                let status = ExitStatus::Signaled { signal: SIGKILL };
                let duration = now - run.started;
                let end = RunEnd { status, duration, reason, out_of_memory: false };
                FromSupervisor::Ended { run: id, end }
            }
        });
        messages.map(|message| to_client(&message)).collect()
    }

    fn client_asked(
        &mut self,
        message: ToSupervisor,
        now: Instant,
    ) -> Result<Vec<Outgoing>, ClientFault> {
        match message {
            ToSupervisor::Launch(_) => Err(ClientFault::OutOfTurn),
            ToSupervisor::Start { run, command, timeout } => {
                if self.runs.contains_key(&run) {
                    return Err(ClientFault::OutOfTurn);
                }
                let frame = encode_message(&ToGuest::Start { run, command })
                    .map_err(|source| ClientFault::Malformed { source })?;
                self.runs.insert(run, Run::new(now, timeout));
                Ok(vec![Outgoing::ToGuest(frame)])
            }
            ToSupervisor::GrantOutput { run, stream, bytes } => {
                let Some(active) = self.runs.get_mut(&run) else {
                    return Ok(Vec::new());
                };
                active
                    .output_credit(stream)
                    .grant(bytes)
                    .map_err(|source| ClientFault::BeyondCredit { source })?;
                Ok(vec![to_guest(&ToGuest::GrantOutput { run, stream, bytes })])
            }
            ToSupervisor::Cancel { run } => {
                let running = self.runs.get_mut(&run).filter(|run| run.state == RunState::Running);
                Ok(running
                    .map(|active| active.end(run, EndReason::Cancelled, now))
                    .into_iter()
                    .collect())
            }
        }
    }

    fn guest_told(
        &mut self,
        message: FromGuest,
        now: Instant,
    ) -> Result<Vec<Outgoing>, GuestFault> {
        match message {
            FromGuest::Started { run } => {
                // Said again and again it would cost no credit.
                self.run_of_guest(run, Progress::Requested)?.progress = Progress::Started;
                Ok(Vec::new())
            }
            FromGuest::StartFailed { run, reason } => {
                self.run_of_guest(run, Progress::Requested)?;
                self.runs.remove(&run);
                let failure = Failure::new(FailureKind::InvalidInput, "cannot start the command")
                    .cause(text(reason));
                Ok(vec![to_client(&FromSupervisor::RunFailed { run, failure })])
            }
            FromGuest::GrantStdin { bytes: 0, .. } => Err(GuestFault::OutOfTurn),
            FromGuest::GrantStdin { run, bytes } => {
                self.run_of_guest(run, Progress::Started)?
                    .stdin
                    .grant(bytes)
                    .map_err(|source| GuestFault::BeyondCredit { source })?;
                Ok(vec![to_client(&FromSupervisor::GrantStdin { run, bytes })])
            }
            FromGuest::Exited { run, status, out_of_memory } => {
                check_signal(status)?;
                let ended = self.run_of_guest(run, Progress::Started)?;
                let reason = match ended.state {
                    RunState::Running => EndReason::Finished,
                    RunState::Ending(reason) => reason,
                };
                let end = RunEnd { status, duration: now - ended.started, reason, out_of_memory };
                self.runs.remove(&run);
                Ok(vec![to_client(&FromSupervisor::Ended { run, end })])
            }
            FromGuest::Fatal { reason } => Err(GuestFault::GaveUp { reason: text(reason) }),
            FromGuest::Ready(_) | FromGuest::Pong | FromGuest::Goodbye => {
                Err(GuestFault::OutOfTurn)
            }
        }
    }

    /// The run of which the guest speaks, if what it says belongs to this `progress`.
    fn run_of_guest(&mut self, id: RunId, progress: Progress) -> Result<&mut Run, GuestFault> {
        let run = self.runs.get_mut(&id).ok_or(GuestFault::UnknownRun)?;
        if run.progress == progress { Ok(run) } else { Err(GuestFault::OutOfTurn) }
    }
}

impl Run {
    fn new(now: Instant, timeout: Duration) -> Self {
        Self {
            progress: Progress::Requested,
            state: RunState::Running,
            started: now,
            deadline: now + timeout.min(WAIT_MAX),
            stdin: Credit::WINDOW,
            stdout: Credit::WINDOW,
            stderr: Credit::WINDOW,
        }
    }

    fn end(&mut self, id: RunId, reason: EndReason, now: Instant) -> Outgoing {
        self.state = RunState::Ending(reason);
        self.deadline = now + KILL_GRACE;
        to_guest(&ToGuest::Kill { run: id })
    }

    fn output_credit(&mut self, stream: Stream) -> &mut Credit {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

/// A status becomes an exit code, and must not leave the range of one.
fn check_signal(status: ExitStatus) -> Result<(), GuestFault> {
    match status {
        ExitStatus::Signaled { signal } if !SIGNALS.contains(&signal) => {
            Err(GuestFault::NoSignal { signal })
        }
        ExitStatus::Signaled { .. } | ExitStatus::Exited { .. } => Ok(()),
    }
}

fn to_guest(message: &ToGuest) -> Outgoing {
    Outgoing::ToGuest(encode_message(message).expect("messages other than Start are short"))
}

fn to_client(message: &FromSupervisor) -> Outgoing {
    Outgoing::ToClient(encode_message(message).expect("what the guest adds to it is cut short"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pyro_protocol::credit::WINDOW_BYTES;
    use pyro_protocol::frame::CHUNK_BYTES_MAX;
    use pyro_protocol::run::{Command, Stdin};

    use super::*;

    const RUN: RunId = RunId(1);
    const TIMEOUT: Duration = Duration::from_secs(30);

    fn message_frame<M: serde::Serialize>(message: &M) -> Frame {
        let bytes = encode_message(message).unwrap();
        let payload = bytes[pyro_protocol::frame::HEADER_BYTES..].to_vec();
        Frame { kind: FrameKind::Message, run: RunId::NONE, payload }
    }

    fn output_frame(run: RunId, length: usize) -> Frame {
        Frame { kind: FrameKind::Output(Stream::Stdout), run, payload: vec![b'x'; length] }
    }

    fn start(run: RunId) -> ToSupervisor {
        start_with(run, TIMEOUT)
    }

    fn start_with(run: RunId, timeout: Duration) -> ToSupervisor {
        let command = Command {
            shell: "true".to_owned(),
            environment: Vec::new(),
            working_directory: None,
            stdin: Stdin::Piped,
        };
        ToSupervisor::Start { run, command, timeout }
    }

    fn started(now: Instant) -> Conversation {
        let mut conversation = Conversation::default();
        conversation.client_sent(&message_frame(&start(RUN)), now).unwrap();
        conversation.guest_sent(&message_frame(&FromGuest::Started { run: RUN }), now).unwrap();
        conversation
    }

    fn exited() -> Frame {
        message_frame(&FromGuest::Exited {
            run: RUN,
            status: ExitStatus::Exited { code: 0 },
            out_of_memory: false,
        })
    }

    fn end_reason(outgoing: &[Outgoing]) -> EndReason {
        let [Outgoing::ToClient(bytes)] = outgoing else {
            panic!("one message to the client, not {outgoing:?}");
        };
        match decode_message(&bytes[pyro_protocol::frame::HEADER_BYTES..]).unwrap() {
            FromSupervisor::Ended { end, .. } => end.reason,
            other => panic!("an end, not {other:?}"),
        }
    }

    #[test]
    fn a_guest_that_exceeds_its_credit_is_faulted() {
        let now = Instant::now();
        let mut conversation = started(now);
        let chunks = WINDOW_BYTES as usize / CHUNK_BYTES_MAX;
        for _ in 0..chunks {
            conversation.guest_sent(&output_frame(RUN, CHUNK_BYTES_MAX), now).unwrap();
        }
        assert!(matches!(
            conversation.guest_sent(&output_frame(RUN, 1), now),
            Err(GuestFault::BeyondCredit { .. })
        ));
    }

    #[test]
    fn what_costs_no_credit_is_a_fault() {
        let now = Instant::now();
        let frames = [
            output_frame(RUN, 0),
            message_frame(&FromGuest::GrantStdin { run: RUN, bytes: 0 }),
            message_frame(&FromGuest::Started { run: RUN }),
            message_frame(&FromGuest::Pong),
        ];
        for frame in frames {
            assert!(matches!(started(now).guest_sent(&frame, now), Err(GuestFault::OutOfTurn)));
        }
    }

    #[test]
    fn a_run_that_has_not_started_neither_writes_nor_ends() {
        let now = Instant::now();
        for frame in [output_frame(RUN, 1), exited()] {
            let mut conversation = Conversation::default();
            conversation.client_sent(&message_frame(&start(RUN)), now).unwrap();
            assert!(matches!(conversation.guest_sent(&frame, now), Err(GuestFault::OutOfTurn)));
        }
    }

    #[test]
    fn an_end_by_a_signal_that_does_not_exist_is_a_fault() {
        let now = Instant::now();
        for signal in [0, 65, 255] {
            let status = ExitStatus::Signaled { signal };
            let exited = FromGuest::Exited { run: RUN, status, out_of_memory: false };
            let answer = started(now).guest_sent(&message_frame(&exited), now);
            assert!(matches!(answer, Err(GuestFault::NoSignal { .. })), "{signal}: {answer:?}");
        }
    }

    #[test]
    fn output_of_a_run_that_does_not_exist_is_a_fault() {
        let now = Instant::now();
        let mut conversation = started(now);
        assert!(matches!(
            conversation.guest_sent(&output_frame(RunId(2), 1), now),
            Err(GuestFault::UnknownRun)
        ));
    }

    #[test]
    fn a_second_exit_of_one_run_is_a_fault() {
        let now = Instant::now();
        let mut conversation = started(now);
        conversation.guest_sent(&exited(), now).unwrap();
        assert!(matches!(conversation.guest_sent(&exited(), now), Err(GuestFault::UnknownRun)));
    }

    #[test]
    fn a_run_past_its_timeout_is_killed_and_ends_as_timed_out() {
        let now = Instant::now();
        let mut conversation = started(now);
        let late = now + TIMEOUT;
        assert_eq!(conversation.next_deadline(), Some(late));
        let outgoing = conversation.deadline_reached(late).unwrap();
        assert_eq!(outgoing, [to_guest(&ToGuest::Kill { run: RUN })]);
        let outgoing = conversation.guest_sent(&exited(), late).unwrap();
        assert_eq!(end_reason(&outgoing), EndReason::TimedOut);
        assert_eq!(conversation.next_deadline(), None);
    }

    #[test]
    fn a_timeout_beyond_every_clock_is_one_that_never_comes() {
        let now = Instant::now();
        let mut conversation = Conversation::default();
        let start = message_frame(&start_with(RUN, Duration::MAX));
        conversation.client_sent(&start, now).unwrap();
        assert_eq!(conversation.next_deadline(), Some(now + WAIT_MAX));
    }

    #[test]
    fn a_guest_that_does_not_kill_in_time_is_given_up_and_its_run_still_ends_as_timed_out() {
        let now = Instant::now();
        let mut conversation = started(now);
        let late = now + TIMEOUT;
        conversation.deadline_reached(late).unwrap();
        let too_late = late + KILL_GRACE;
        assert!(matches!(conversation.deadline_reached(too_late), Err(GuestFault::Unresponsive)));
        let failure = Failure::new(FailureKind::VmLost, "lost");
        assert_eq!(end_reason(&conversation.vm_gone(&failure, too_late)), EndReason::TimedOut);
    }

    #[test]
    fn a_cancelled_run_ends_as_cancelled() {
        let now = Instant::now();
        let mut conversation = started(now);
        let cancel = message_frame(&ToSupervisor::Cancel { run: RUN });
        let outgoing = conversation.client_sent(&cancel, now).unwrap();
        assert_eq!(outgoing, [to_guest(&ToGuest::Kill { run: RUN })]);
        assert_eq!(conversation.client_sent(&cancel, now).unwrap(), [], "killed once only");
        let outgoing = conversation.guest_sent(&exited(), now).unwrap();
        assert_eq!(end_reason(&outgoing), EndReason::Cancelled);
    }

    #[test]
    fn input_for_a_run_that_just_ended_is_dropped() {
        let now = Instant::now();
        let mut conversation = started(now);
        conversation.guest_sent(&exited(), now).unwrap();
        let input = Frame { kind: FrameKind::Stdin, run: RUN, payload: b"late".to_vec() };
        assert_eq!(conversation.client_sent(&input, now).unwrap(), []);
    }

    fn any_guest_frame() -> impl Strategy<Value = Frame> {
        let run = (0_u32..4).prop_map(RunId);
        prop_oneof![
            (run.clone(), 0..CHUNK_BYTES_MAX).prop_map(|(run, length)| output_frame(run, length)),
            run.clone().prop_map(|run| message_frame(&FromGuest::Started { run })),
            (run.clone(), any::<u32>())
                .prop_map(|(run, bytes)| message_frame(&FromGuest::GrantStdin { run, bytes })),
            (run.clone(), ".{0,3000}")
                .prop_map(|(run, reason)| message_frame(&FromGuest::StartFailed { run, reason })),
            run.prop_map(|run| message_frame(&FromGuest::Exited {
                run,
                status: ExitStatus::Signaled { signal: 9 },
                out_of_memory: true,
            })),
            prop::collection::vec(any::<u8>(), 0..64).prop_map(|payload| Frame {
                kind: FrameKind::Message,
                run: RunId::NONE,
                payload,
            }),
        ]
    }

    proptest! {
        #[test]
        fn whatever_a_guest_sends_each_run_ends_once_and_gets_no_more_than_its_credit(
            frames in prop::collection::vec(any_guest_frame(), 0..60),
        ) {
            let now = Instant::now();
            let mut conversation = started(now);
            conversation.client_sent(&message_frame(&start(RunId(2))), now).unwrap();
            let mut outgoing = Vec::new();
            for frame in frames {
                match conversation.guest_sent(&frame, now) {
                    Ok(more) => outgoing.extend(more),
                    Err(_) => break,
                }
            }
            outgoing.extend(conversation.vm_gone(&Failure::new(FailureKind::VmLost, "lost"), now));

            let mut ends = BTreeMap::<RunId, usize>::new();
            let mut output_bytes = BTreeMap::<RunId, usize>::new();
            for frame in outgoing {
                let Outgoing::ToClient(bytes) = frame else { continue };
                let mut decoder = pyro_protocol::frame::FrameDecoder::default();
                decoder.push(&bytes);
                let frame = decoder.next_frame().unwrap().unwrap();
                if let FrameKind::Output(_) = frame.kind {
                    *output_bytes.entry(frame.run).or_default() += frame.payload.len();
                    continue;
                }
                match decode_message(&frame.payload).unwrap() {
                    FromSupervisor::Ended { run, .. } | FromSupervisor::RunFailed { run, .. } => {
                        *ends.entry(run).or_default() += 1;
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(ends.into_values().collect::<Vec<_>>(), [1, 1]);
            prop_assert!(output_bytes.values().all(|bytes| *bytes <= WINDOW_BYTES as usize));
        }
    }
}
