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

mod run;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pyro_protocol::client::{EndReason, FromSupervisor, RunEnd, ToSupervisor};
use pyro_protocol::failure::{Failure, FailureKind};
use pyro_protocol::frame::{Frame, FrameKind, decode_message, encode_chunk, encode_message};
use pyro_protocol::guest::{FromGuest, ToGuest};
use pyro_protocol::network::Refusals;
use pyro_protocol::run::{ExitStatus, RunId};

use self::run::{Progress, Run, RunState};
use crate::fault::{ClientFault, GuestFault};
use crate::untrusted::text;

/// From the order to kill a run to the end of the agent's patience: the agent has every process
/// killed by the kernel at once, so a guest that needs longer does not work any more.
pub(crate) const KILL_GRACE: Duration = Duration::from_secs(10);

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
    ToClient(ClientId, Vec<u8>),
    /// A client's `Ended`, as far as it is known here: what was refused in the meantime is not. To be written
    /// down before it is sent.
    Ended {
        client: ClientId,
        /// The number that the client knows.
        run: RunId,
        end: RunEnd,
    },
}

/// One of those who are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClientId(pub(crate) u32);

/// The state of all runs of one VM.
///
/// Each client numbers its runs as it likes; the guest knows them by numbers that are never used twice.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    runs: BTreeMap<RunId, Run>,
    last_run: u32,
    notes: Vec<Note>,
}

/// What is to be written down of a run, for those who ask later. Each run begins once and is over once: it
/// fails, or is [`Ended`](Outgoing::Ended).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Note {
    Began { run: RunId, command: String },
    Failed { run: RunId, reason: String },
}

impl Conversation {
    /// Takes a frame of a client.
    pub(crate) fn client_sent(
        &mut self,
        client: ClientId,
        frame: &Frame,
        now: Instant,
    ) -> Result<Vec<Outgoing>, ClientFault> {
        match frame.kind {
            FrameKind::Message => {
                let message = decode_message(&frame.payload)
                    .map_err(|source| ClientFault::Malformed { source })?;
                self.client_asked(client, message, now)
            }
            FrameKind::Stdin => {
                // The run may have ended while its input was on the way.
                let Some((id, run)) = self.run_of_client(client, frame.run) else {
                    return Ok(Vec::new());
                };
                run.stdin
                    .spend(frame.payload.len())
                    .map_err(|source| ClientFault::BeyondCredit { source })?;
                let chunk = encode_chunk(frame.kind, id, &frame.payload)
                    .map_err(|source| ClientFault::Malformed { source })?;
                Ok(vec![Outgoing::ToGuest(chunk)])
            }
            FrameKind::Output(_) => Err(ClientFault::OutOfTurn),
        }
    }

    /// Ends the runs of a client that has left: nobody waits for them any more.
    pub(crate) fn client_left(&mut self, client: ClientId, now: Instant) -> Vec<Outgoing> {
        let is_its = |run: &Run| run.client == client && run.state == RunState::Running;
        let runs = self.runs.iter_mut().filter(|(_, run)| is_its(run));
        runs.map(|(id, run)| run.end(*id, EndReason::Cancelled, now)).collect()
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
                let chunk = encode_chunk(frame.kind, run.number, &frame.payload)
                    .map_err(|source| GuestFault::Malformed { source })?;
                Ok(vec![Outgoing::ToClient(run.client, chunk)])
            }
            FrameKind::Stdin => Err(GuestFault::OutOfTurn),
        }
    }

    /// What is to be written down since this was last asked.
    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
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
        let told = runs.into_iter().map(|(id, run)| match run.state {
            RunState::Running => self.fail(id, &run, failure.clone()),
            RunState::Ending(reason) => {
                let status = ExitStatus::Signaled { signal: SIGKILL };
                let duration = now - run.started;
                let refusals = Refusals::default();
                let end =
                    RunEnd { number: id, status, duration, reason, out_of_memory: false, refusals };
                run.ended(end)
            }
        });
        told.collect()
    }

    fn client_asked(
        &mut self,
        client: ClientId,
        message: ToSupervisor,
        now: Instant,
    ) -> Result<Vec<Outgoing>, ClientFault> {
        match message {
            ToSupervisor::Launch(_)
            | ToSupervisor::Keep
            | ToSupervisor::Known
            | ToSupervisor::StartVm
            | ToSupervisor::StopVm
            | ToSupervisor::DeleteVm
            | ToSupervisor::Claim(_)
            | ToSupervisor::DescribeSpare => Err(ClientFault::OutOfTurn),
            ToSupervisor::Start { run, command, timeout } => {
                if self.run_of_client(client, run).is_some() {
                    return Err(ClientFault::OutOfTurn);
                }
                self.last_run += 1;
                let id = RunId(self.last_run);
                let shell = command.shell.clone();
                let frame = encode_message(&ToGuest::Start { run: id, command })
                    .map_err(|source| ClientFault::Malformed { source })?;
                self.notes.push(Note::Began { run: id, command: shell });
                self.runs.insert(id, Run::new(client, run, now, timeout));
                Ok(vec![Outgoing::ToGuest(frame)])
            }
            ToSupervisor::GrantOutput { run, stream, bytes } => {
                let Some((id, active)) = self.run_of_client(client, run) else {
                    return Ok(Vec::new());
                };
                active
                    .output_credit(stream)
                    .grant(bytes)
                    .map_err(|source| ClientFault::BeyondCredit { source })?;
                Ok(vec![to_guest(&ToGuest::GrantOutput { run: id, stream, bytes })])
            }
            ToSupervisor::Resize { run, size } => {
                let resized = self.run_of_client(client, run);
                let resized = resized.map(|(id, _)| to_guest(&ToGuest::Resize { run: id, size }));
                Ok(resized.into_iter().collect())
            }
            ToSupervisor::Cancel { run } => {
                let running = self
                    .run_of_client(client, run)
                    .filter(|(_, run)| run.state == RunState::Running);
                Ok(running
                    .map(|(id, active)| active.end(id, EndReason::Cancelled, now))
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
            FromGuest::StartFailed { run: id, reason } => {
                self.run_of_guest(id, Progress::Requested)?;
                let run = self.runs.remove(&id).ok_or(GuestFault::UnknownRun)?;
                let failure = Failure::new(FailureKind::InvalidInput, "cannot start the command")
                    .cause(text(reason));
                Ok(vec![self.fail(id, &run, failure)])
            }
            FromGuest::GrantStdin { run, bytes: bytes @ 1.. } => {
                let run = self.run_of_guest(run, Progress::Started)?;
                run.stdin.grant(bytes).map_err(|source| GuestFault::BeyondCredit { source })?;
                Ok(vec![run.tell(|run| FromSupervisor::GrantStdin { run, bytes })])
            }
            FromGuest::Exited { run: id, status, out_of_memory } => {
                check_signal(status)?;
                self.run_of_guest(id, Progress::Started)?;
                let run = self.runs.remove(&id).ok_or(GuestFault::UnknownRun)?;
                let reason = match run.state {
                    RunState::Running => EndReason::Finished,
                    RunState::Ending(reason) => reason,
                };
                let duration = now - run.started;
                let refusals = Refusals::default();
                let end = RunEnd { number: id, status, duration, reason, out_of_memory, refusals };
                Ok(vec![run.ended(end)])
            }
            FromGuest::Fatal { reason } => Err(GuestFault::GaveUp { reason: text(reason) }),
            FromGuest::GrantStdin { bytes: 0, .. }
            | FromGuest::Ready(_)
            | FromGuest::FileWritten
            | FromGuest::FileNotWritten { .. }
            | FromGuest::Pong
            | FromGuest::Goodbye => Err(GuestFault::OutOfTurn),
        }
    }

    fn fail(&mut self, id: RunId, run: &Run, failure: Failure) -> Outgoing {
        self.notes.push(Note::Failed { run: id, reason: failure.one_line() });
        run.tell(|run| FromSupervisor::RunFailed { run, failure })
    }

    fn run_of_client(&mut self, client: ClientId, number: RunId) -> Option<(RunId, &mut Run)> {
        let is_it = |run: &Run| run.client == client && run.number == number;
        self.runs.iter_mut().find(|(_, run)| is_it(run)).map(|(id, run)| (*id, run))
    }

    /// The run of which the guest speaks, if what it says belongs to this `progress`.
    fn run_of_guest(&mut self, id: RunId, progress: Progress) -> Result<&mut Run, GuestFault> {
        let run = self.runs.get_mut(&id).ok_or(GuestFault::UnknownRun)?;
        if run.progress == progress { Ok(run) } else { Err(GuestFault::OutOfTurn) }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pyro_protocol::credit::WINDOW_BYTES;
    use pyro_protocol::frame::CHUNK_BYTES_MAX;
    use pyro_protocol::run::{Command, Stdin, Stream};

    use super::*;

    const CLIENT: ClientId = ClientId(0);
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
        conversation.client_sent(CLIENT, &message_frame(&start(RUN)), now).unwrap();
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
        match outgoing {
            [Outgoing::Ended { end, .. }] => end.reason,
            _ => panic!("one end, not {outgoing:?}"),
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
            conversation.client_sent(CLIENT, &message_frame(&start(RUN)), now).unwrap();
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
        conversation.client_sent(CLIENT, &start, now).unwrap();
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
        let outgoing = conversation.client_sent(CLIENT, &cancel, now).unwrap();
        assert_eq!(outgoing, [to_guest(&ToGuest::Kill { run: RUN })]);
        assert_eq!(conversation.client_sent(CLIENT, &cancel, now).unwrap(), [], "killed once only");
        let outgoing = conversation.guest_sent(&exited(), now).unwrap();
        assert_eq!(end_reason(&outgoing), EndReason::Cancelled);
    }

    #[test]
    fn input_for_a_run_that_just_ended_is_dropped() {
        let now = Instant::now();
        let mut conversation = started(now);
        conversation.guest_sent(&exited(), now).unwrap();
        let input = Frame { kind: FrameKind::Stdin, run: RUN, payload: b"late".to_vec() };
        assert_eq!(conversation.client_sent(CLIENT, &input, now).unwrap(), []);
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
            conversation.client_sent(CLIENT, &message_frame(&start(RunId(2))), now).unwrap();
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
                let bytes = match frame {
                    Outgoing::ToClient(_, bytes) => bytes,
                    Outgoing::Ended { run, .. } => {
                        *ends.entry(run).or_default() += 1;
                        continue;
                    }
                    Outgoing::ToGuest(_) => continue,
                };
                let mut decoder = pyro_protocol::frame::FrameDecoder::default();
                decoder.push(&bytes);
                let frame = decoder.next_frame().unwrap().unwrap();
                if let FrameKind::Output(_) = frame.kind {
                    *output_bytes.entry(frame.run).or_default() += frame.payload.len();
                    continue;
                }
                if let FromSupervisor::RunFailed { run, .. } =
                    decode_message(&frame.payload).unwrap()
                {
                    *ends.entry(run).or_default() += 1;
                }
            }
            prop_assert_eq!(ends.into_values().collect::<Vec<_>>(), [1, 1]);
            prop_assert!(output_bytes.values().all(|bytes| *bytes <= WINDOW_BYTES as usize));
        }
    }
}
