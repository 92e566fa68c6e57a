//! Conversations in which nobody keeps to the rules, checked against books kept beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use pyro_protocol::client::{FromSupervisor, ToSupervisor};
use pyro_protocol::credit::WINDOW_BYTES;
use pyro_protocol::failure::{Failure, FailureKind};
use pyro_protocol::frame::{
    CHUNK_BYTES_MAX, Frame, FrameDecoder, FrameKind, HEADER_BYTES, decode_message, encode_message,
};
use pyro_protocol::guest::{FromGuest, TEXT_BYTES_MAX, ToGuest};
use pyro_protocol::run::{Command, ExitStatus, RunId, Stdin, Stream};
use serde::Serialize;

use super::untrusted::assert_shown_safely;
use crate::conversation::{ClientId, Conversation, Note, Outgoing};
use crate::fault::GuestFault;

/// Steps of one conversation.
const EVENTS_MAX: usize = 512;

/// More than is passed on, less than a frame can carry.
const REASON_BYTES_MAX: usize = 4 * TEXT_BYTES_MAX;

/// What a message may add to the one that caused it: a number of its own, and another's name.
const OVERHEAD_BYTES_MAX: usize = 128;

/// Any sequence of frames of a client and of a guest, and of deadlines: each run ends exactly once;
/// no stream carries more than was granted; nothing is said of a run that is not there; one frame
/// causes at most one; and a guest that keeps to its credit is not faulted for it.
pub fn conversation(data: &[u8]) {
    let mut source = Unstructured::new(data);
    let mut table = Table::new();
    for _ in 0..EVENTS_MAX {
        if source.is_empty() {
            break;
        }
        let Ok(event) = Event::arbitrary(&mut source) else { break };
        if table.take(event).is_break() {
            break;
        }
    }
    table.close();
}

/// What may happen next. Few runs, so that events meet.
#[derive(Debug, Arbitrary)]
enum Event {
    ClientStarts { run: FewRuns, timeout: Timeout },
    ClientCancels { run: FewRuns },
    ClientGrants { run: FewRuns, stream: Output, bytes: Amount },
    ClientWrites { run: FewRuns, length: Amount },
    ClientSends(RawFrame),
    GuestStarted { run: FewRuns },
    GuestFailedToStart { run: FewRuns, reason: String, repeat: u8 },
    GuestGrants { run: FewRuns, bytes: Amount },
    GuestWrites { run: FewRuns, stream: Output, length: Amount },
    GuestExited { run: FewRuns, code: u8, out_of_memory: bool },
    GuestGaveUp { reason: String },
    GuestSends(RawFrame),
    TimePasses { milliseconds: u16 },
    TimePassesToTheDeadline,
    DeadlineIsServed,
}

/// A frame with a payload that need not be a message.
#[derive(Debug, Arbitrary)]
struct RawFrame {
    kind: RawKind,
    run: FewRuns,
    payload: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum RawKind {
    Message,
    Stdin,
    Output(Output),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
struct FewRuns(u8);

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Output {
    Stdout,
    Stderr,
}

/// A number of bytes, often one at which something changes.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Amount {
    Exactly(u32),
    Window,
    Chunk,
    Small(u8),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Timeout {
    Milliseconds(u16),
    Longest,
}

impl FewRuns {
    fn id(self) -> RunId {
        RunId(u32::from(self.0 % 8))
    }
}

impl Output {
    fn stream(self) -> Stream {
        match self {
            Self::Stdout => Stream::Stdout,
            Self::Stderr => Stream::Stderr,
        }
    }
}

impl Amount {
    fn bytes(self) -> u32 {
        match self {
            Self::Exactly(bytes) => bytes,
            Self::Window => WINDOW_BYTES,
            Self::Chunk => u32::try_from(CHUNK_BYTES_MAX).expect("shorter than a window"),
            Self::Small(bytes) => u32::from(bytes),
        }
    }

    /// What a frame can carry of it.
    fn payload(self) -> Vec<u8> {
        vec![b'x'; (self.bytes() as usize).min(CHUNK_BYTES_MAX)]
    }
}

impl RawFrame {
    fn frame(self) -> Frame {
        let kind = match self.kind {
            RawKind::Message => FrameKind::Message,
            RawKind::Stdin => FrameKind::Stdin,
            RawKind::Output(output) => FrameKind::Output(output.stream()),
        };
        Frame { kind, run: self.run.id(), payload: self.payload }
    }
}

/// The one client.
const CLIENT: ClientId = ClientId(1);

/// A conversation, the clock, and the books.
struct Table {
    conversation: Conversation,
    now: Instant,
    books: Books,
}

/// The conversation is over: a side was faulted.
type Course = std::ops::ControlFlow<()>;
const ON: Course = Course::Continue(());
const OVER: Course = Course::Break(());

impl Table {
    fn new() -> Self {
        let now = Instant::now();
        Self { conversation: Conversation::default(), now, books: Books::default() }
    }

    fn take(&mut self, event: Event) -> Course {
        match event {
            Event::ClientStarts { run, timeout } => self.client_asks(&ToSupervisor::Start {
                run: run.id(),
                command: command(),
                timeout: match timeout {
                    Timeout::Milliseconds(count) => Duration::from_millis(count.into()),
                    Timeout::Longest => Duration::MAX,
                },
            }),
            Event::ClientCancels { run } => {
                self.client_asks(&ToSupervisor::Cancel { run: run.id() })
            }
            Event::ClientGrants { run, stream, bytes } => {
                let (run, stream, bytes) = (run.id(), stream.stream(), bytes.bytes());
                self.client_asks(&ToSupervisor::GrantOutput { run, stream, bytes })
            }
            Event::ClientWrites { run, length } => {
                let (run, payload) = (run.id(), length.payload());
                self.client_sends(&Frame { kind: FrameKind::Stdin, run, payload })
            }
            Event::ClientSends(frame) => self.client_sends(&frame.frame()),
            Event::GuestStarted { run } => self.guest_tells(&FromGuest::Started { run: run.id() }),
            Event::GuestFailedToStart { run, reason, repeat } => {
                let mut reason = reason.repeat(usize::from(repeat));
                reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
                self.guest_tells(&FromGuest::StartFailed { run: run.id(), reason })
            }
            Event::GuestGrants { run, bytes } => {
                self.guest_tells(&FromGuest::GrantStdin { run: run.id(), bytes: bytes.bytes() })
            }
            Event::GuestWrites { run, stream, length } => {
                let (run, kind) = (run.id(), FrameKind::Output(stream.stream()));
                self.guest_sends(&Frame { kind, run, payload: length.payload() })
            }
            Event::GuestExited { run, code, out_of_memory } => {
                let status = ExitStatus::Exited { code };
                self.guest_tells(&FromGuest::Exited { run: run.id(), status, out_of_memory })
            }
            Event::GuestGaveUp { reason } => self.guest_tells(&FromGuest::Fatal { reason }),
            Event::GuestSends(frame) => self.guest_sends(&frame.frame()),
            Event::TimePasses { milliseconds } => {
                self.now += Duration::from_millis(milliseconds.into());
                ON
            }
            Event::TimePassesToTheDeadline => {
                self.now = self.conversation.next_deadline().unwrap_or(self.now).max(self.now);
                ON
            }
            Event::DeadlineIsServed => self.serve_deadline(),
        }
    }

    fn client_asks(&mut self, message: &ToSupervisor) -> Course {
        self.client_sends(&message_frame(message))
    }

    fn guest_tells(&mut self, message: &FromGuest) -> Course {
        self.guest_sends(&message_frame(message))
    }

    fn client_sends(&mut self, frame: &Frame) -> Course {
        self.books.note_request(frame);
        let Ok(outgoing) = self.conversation.client_sent(CLIENT, frame, self.now) else {
            return OVER;
        };
        self.enter_answer(frame, &outgoing);
        ON
    }

    fn guest_sends(&mut self, frame: &Frame) -> Course {
        let allowed = self.books.allow_output(frame);
        match self.conversation.guest_sent(frame, self.now) {
            Ok(outgoing) => {
                assert_ne!(allowed, Some(false), "more output than was granted is taken");
                self.books.note_start(frame);
                self.enter_answer(frame, &outgoing);
                ON
            }
            Err(fault) => {
                assert_ne!(allowed, Some(true), "output that was granted is a fault: {fault}");
                if let GuestFault::GaveUp { reason } = fault {
                    assert_shown_safely(&reason);
                }
                OVER
            }
        }
    }

    /// What follows a deadline, as the driver asks for it.
    fn serve_deadline(&mut self) -> Course {
        if self.conversation.next_deadline().is_none_or(|deadline| deadline > self.now) {
            return ON;
        }
        let Ok(outgoing) = self.conversation.deadline_reached(self.now) else { return OVER };
        assert!(!outgoing.is_empty(), "a deadline without consequences is served for ever");
        self.books.enter(&outgoing);
        let next = self.conversation.next_deadline();
        assert!(next.is_none_or(|deadline| deadline > self.now), "a deadline is served twice");
        ON
    }

    fn enter_answer(&mut self, cause: &Frame, outgoing: &[Outgoing]) {
        assert!(outgoing.len() <= 1, "one frame causes several: {outgoing:?}");
        for frame in outgoing {
            let (Outgoing::ToGuest(bytes) | Outgoing::ToClient(_, bytes)) = frame else { continue };
            let bytes_max = cause.payload.len() + HEADER_BYTES + OVERHEAD_BYTES_MAX;
            assert!(
                bytes.len() <= bytes_max,
                "{} bytes cause {}",
                cause.payload.len(),
                bytes.len()
            );
        }
        self.books.enter(outgoing);
        assert_eq!(self.conversation.next_deadline().is_none(), self.books.runs.is_empty());
    }

    /// The VM is gone: every run that is left ends.
    fn close(mut self) {
        let failure = Failure::new(FailureKind::VmLost, "lost");
        let outgoing = self.conversation.vm_gone(&failure, self.now);
        let is_the_clients = |frame: &Outgoing| {
            matches!(frame, Outgoing::ToClient(CLIENT, _) | Outgoing::Ended { client: CLIENT, .. })
        };
        assert!(outgoing.iter().all(is_the_clients));
        self.books.enter(&outgoing);
        assert!(self.books.runs.is_empty(), "a run never ends: {:?}", self.books.runs);
        assert_each_run_is_over_once(self.conversation.take_notes(), self.books.ended);
        assert!(self.conversation.next_deadline().is_none());
    }
}

/// What was said to both sides, run by run; an entry that cannot be made is a broken rule.
#[derive(Debug, Default)]
struct Books {
    /// By the numbers that the guest knows.
    runs: BTreeMap<RunId, Account>,
    /// What the client calls the run that it asks for at this moment.
    requested: Option<RunId>,
    /// In the guest's numbers.
    ended: Vec<RunId>,
}

/// What each stream of a run may still carry.
#[derive(Debug)]
struct Account {
    /// What its client calls it.
    number: RunId,
    stdin_bytes: usize,
    stdout_bytes: usize,
    stderr_bytes: usize,
    has_started: bool,
    is_killed: bool,
}

impl Account {
    fn output_bytes(&mut self, stream: Stream) -> &mut usize {
        match stream {
            Stream::Stdout => &mut self.stdout_bytes,
            Stream::Stderr => &mut self.stderr_bytes,
        }
    }
}

impl Books {
    /// Whether an output frame of the guest is that of a run which has started, and within its credit; `None`
    /// for other frames.
    fn allow_output(&mut self, frame: &Frame) -> Option<bool> {
        let FrameKind::Output(stream) = frame.kind else { return None };
        let Some(account) = self.runs.get_mut(&frame.run) else { return Some(false) };
        let has_started = account.has_started;
        Some(has_started && (1..=*account.output_bytes(stream)).contains(&frame.payload.len()))
    }

    /// Notes what the client calls a run, if it asks for one.
    fn note_request(&mut self, frame: &Frame) {
        self.requested = match decode_message(&frame.payload) {
            Ok(ToSupervisor::Start { run, .. }) if frame.kind == FrameKind::Message => Some(run),
            _ => None,
        };
    }

    /// Notes that the guest says that a run has started, and was believed.
    fn note_start(&mut self, frame: &Frame) {
        if frame.kind != FrameKind::Message {
            return;
        }
        if let Ok(FromGuest::Started { run }) = decode_message(&frame.payload) {
            let had_started = std::mem::replace(&mut self.account(run).has_started, true);
            assert!(!had_started, "{run:?} starts twice");
        }
    }

    fn enter(&mut self, outgoing: &[Outgoing]) {
        for frame in outgoing {
            match frame {
                Outgoing::ToGuest(bytes) => self.enter_to_guest(&only_frame(bytes)),
                Outgoing::ToClient(_, bytes) => self.enter_to_client(&only_frame(bytes)),
                Outgoing::Ended { run, end, .. } => {
                    self.settle(*run);
                    self.ended.push(end.number);
                }
            }
        }
    }

    fn enter_to_guest(&mut self, frame: &Frame) {
        match frame.kind {
            FrameKind::Stdin => spend(&mut self.account(frame.run).stdin_bytes, frame),
            FrameKind::Output(_) => panic!("a guest gets no output"),
            FrameKind::Message => match decode_message(&frame.payload).expect("a message") {
                ToGuest::Start { run, .. } => self.open(run),
                ToGuest::GrantOutput { run, stream, bytes } => {
                    grant(self.account(run).output_bytes(stream), bytes);
                }
                ToGuest::Kill { run } => {
                    let was_killed = std::mem::replace(&mut self.account(run).is_killed, true);
                    assert!(!was_killed, "a run is killed twice");
                }
                ToGuest::Resize { run, .. } => {
                    self.account(run);
                }
                message @ (ToGuest::Configure(_)
                | ToGuest::WriteFile { .. }
                | ToGuest::Ping
                | ToGuest::PowerOff) => {
                    panic!("nobody asked for {message:?}")
                }
            },
        }
    }

    fn enter_to_client(&mut self, frame: &Frame) {
        match frame.kind {
            FrameKind::Output(stream) => {
                assert!(!frame.payload.is_empty(), "what costs nothing can be said without end");
                spend(self.account_of_client(frame.run).output_bytes(stream), frame);
            }
            FrameKind::Stdin => panic!("a client gets no input"),
            FrameKind::Message => match decode_message(&frame.payload).expect("a message") {
                FromSupervisor::GrantStdin { run, bytes } => {
                    assert_ne!(bytes, 0, "what costs nothing can be said without end");
                    grant(&mut self.account_of_client(run).stdin_bytes, bytes);
                }
                FromSupervisor::RunFailed { run, failure } => {
                    failure.causes.iter().for_each(|cause| assert_shown_safely(cause));
                    self.settle(run);
                }
                message @ (FromSupervisor::Ended { .. }
                | FromSupervisor::Progress(_)
                | FromSupervisor::Ready(_)
                | FromSupervisor::Done
                | FromSupervisor::Failed(_)
                | FromSupervisor::Claimed
                | FromSupervisor::Spare(_)) => panic!("nobody asked for {message:?}"),
            },
        }
    }

    fn open(&mut self, run: RunId) {
        let window = WINDOW_BYTES as usize;
        let number = self.requested.take().expect("a run that the client asks for");
        let is_new = self.runs.values().all(|account| account.number != number);
        assert!(is_new, "the client's {number:?} starts twice");
        let account = Account {
            number,
            stdin_bytes: window,
            stdout_bytes: window,
            stderr_bytes: window,
            has_started: false,
            is_killed: false,
        };
        assert!(self.runs.insert(run, account).is_none(), "{run:?} starts twice");
    }

    /// The client is told of the end of a run.
    fn settle(&mut self, number: RunId) {
        let runs = self.runs.len();
        self.runs.retain(|_, account| account.number != number);
        assert_eq!(self.runs.len() + 1, runs, "{number:?} ends, but is not there");
    }

    fn account_of_client(&mut self, number: RunId) -> &mut Account {
        let account = self.runs.values_mut().find(|account| account.number == number);
        account.expect("only runs that are there are spoken of")
    }

    fn account(&mut self, run: RunId) -> &mut Account {
        self.runs.get_mut(&run).expect("only runs that are there are spoken of")
    }
}

/// A run is written down when it begins, and then fails or ends.
fn assert_each_run_is_over_once(notes: Vec<Note>, ended: Vec<RunId>) {
    let mut begun = BTreeSet::new();
    for note in notes {
        match note {
            Note::Began { run, .. } => assert!(begun.insert(run), "{run:?} begins twice"),
            Note::Failed { run, .. } => {
                assert!(begun.remove(&run), "{run:?} fails, but has not begun");
            }
        }
    }
    for run in ended {
        assert!(begun.remove(&run), "{run:?} ends, but has not begun, or fails as well");
    }
    assert!(begun.is_empty(), "never over: {begun:?}");
}

fn spend(available_bytes: &mut usize, frame: &Frame) {
    let left = available_bytes.checked_sub(frame.payload.len());
    *available_bytes = left.expect("no stream carries more than was granted");
}

fn grant(available_bytes: &mut usize, bytes: u32) {
    *available_bytes += bytes as usize;
    assert!(*available_bytes <= WINDOW_BYTES as usize, "more is granted than the window");
}

fn only_frame(bytes: &[u8]) -> Frame {
    let mut decoder = FrameDecoder::default();
    decoder.push(bytes);
    let frame = decoder.next_frame().expect("a frame").expect("a whole one");
    assert!(decoder.into_unread().is_empty(), "more than one frame");
    frame
}

fn message_frame<M: Serialize>(message: &M) -> Frame {
    only_frame(&encode_message(message).expect("short"))
}

fn command() -> Command {
    Command {
        shell: "true".to_owned(),
        environment: Vec::new(),
        working_directory: None,
        stdin: Stdin::Piped,
    }
}
