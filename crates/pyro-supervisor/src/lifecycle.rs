//! Where a VM stands in its life, and what follows from what happens to it: pure, no I/O.
//!
//! ```text
//!            StartVm              ready                StopVm
//!   created ────────► starting ──────────► started ───────────► stopping
//!                      ▲    │ failed: back    │ machine lost       │ machine gone
//!                      │    ▼                 ▼                    ▼
//!                      └─ created or stopped ◄───────────────── stopped
//!
//!   DeleteVm, or the end of its time, from anywhere ───────────► over
//! ```

use pyro_protocol::record::VmState;

use crate::conversation::ClientId;

/// What a client asks of the VM as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Start,
    Stop,
    Delete,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Launch a machine; its outcome comes back as [`Lifecycle::launched`].
    Launch,
    /// Give the launch up that is going on.
    GiveUpLaunch,
    /// Ask the machine to end by itself; its end comes back as [`Lifecycle::machine_gone`].
    PowerOff,
    /// Write the state down.
    Record(VmState),
    Answer(ClientId, Answer),
    /// Destroy whatever there is, and end. What follows is for when that is done: who hears of the end may
    /// rely on it.
    Leave,
}

/// What a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    /// The VM takes commands; with the launch's report.
    Ready,
    /// The launch failed; with its reason.
    LaunchFailed,
    /// The launch was given up because somebody stopped the VM.
    GivenUp,
    /// It will not be done any more, because the VM is gone for good.
    Gone,
    /// It cannot be done in this state.
    NotNow(Standing),
}

/// Where a VM stands, as its supervisor sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Created,
    Starting { asker: ClientId, from: Rest },
    Started,
    Stopping,
    Stopped,
    Over,
}

/// A state in which no machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    Created,
    Stopped,
}

/// The life of one VM.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    standing: Standing,
    /// Who waits for the machine to be gone.
    stoppers: Vec<ClientId>,
}

impl Lifecycle {
    pub(crate) fn created() -> Self {
        Self { standing: Standing::Created, stoppers: Vec::new() }
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// A client asks for something.
    pub(crate) fn asked(&mut self, client: ClientId, request: Request) -> Vec<Action> {
        let answer = |answer| vec![Action::Answer(client, answer)];
        match (request, self.standing) {
            (_, Standing::Over) => answer(Answer::NotNow(Standing::Over)),
            (Request::Delete, _) => {
                let mut actions = vec![Action::Leave];
                actions.extend(self.over());
                actions.push(done(client));
                actions
            }
            (Request::Start, Standing::Created) => self.start(client, Rest::Created),
            (Request::Start, Standing::Stopped) => self.start(client, Rest::Stopped),
            (Request::Start, standing) => answer(Answer::NotNow(standing)),
            (Request::Stop, Standing::Stopped) => answer(Answer::Done),
            (Request::Stop, Standing::Created) => {
                self.standing = Standing::Stopped;
                vec![Action::Record(VmState::Stopped), done(client)]
            }
            (Request::Stop, Standing::Starting { asker, .. }) => {
                self.standing = Standing::Stopped;
                vec![
                    Action::GiveUpLaunch,
                    Action::Record(VmState::Stopped),
                    Action::Answer(asker, Answer::GivenUp),
                    done(client),
                ]
            }
            (Request::Stop, Standing::Started) => {
                self.standing = Standing::Stopping;
                self.stoppers.push(client);
                vec![Action::PowerOff]
            }
            (Request::Stop, Standing::Stopping) => {
                self.stoppers.push(client);
                Vec::new()
            }
        }
    }

    /// The launch has come to its end, well or badly.
    pub(crate) fn launched(&mut self, well: bool) -> Vec<Action> {
        let Standing::Starting { asker, from } = self.standing else { return Vec::new() };
        if well {
            self.standing = Standing::Started;
            return vec![Action::Record(VmState::Started), Action::Answer(asker, Answer::Ready)];
        }
        self.standing = from.standing();
        vec![Action::Answer(asker, Answer::LaunchFailed)]
    }

    /// The machine has ended, as it was told to or by itself.
    pub(crate) fn machine_gone(&mut self) -> Vec<Action> {
        if !matches!(self.standing, Standing::Started | Standing::Stopping) {
            return Vec::new();
        }
        self.standing = Standing::Stopped;
        let stoppers = std::mem::take(&mut self.stoppers);
        let mut actions = vec![Action::Record(VmState::Stopped)];
        actions.extend(stoppers.into_iter().map(done));
        actions
    }

    /// The VM ends for good; gives what whoever still waits is to be told.
    pub(crate) fn over(&mut self) -> Vec<Action> {
        let starting = match std::mem::replace(&mut self.standing, Standing::Over) {
            Standing::Starting { asker, .. } => Some(Action::Answer(asker, Answer::Gone)),
            Standing::Created
            | Standing::Started
            | Standing::Stopping
            | Standing::Stopped
            | Standing::Over => None,
        };
        let stoppers = std::mem::take(&mut self.stoppers).into_iter().map(done);
        starting.into_iter().chain(stoppers).collect()
    }

    fn start(&mut self, asker: ClientId, from: Rest) -> Vec<Action> {
        self.standing = Standing::Starting { asker, from };
        vec![Action::Launch]
    }
}

impl Rest {
    fn standing(self) -> Standing {
        match self {
            Self::Created => Standing::Created,
            Self::Stopped => Standing::Stopped,
        }
    }
}

impl Standing {
    /// As in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => VmState::Created.name(),
            Self::Starting { .. } => "starting",
            Self::Started => VmState::Started.name(),
            Self::Stopping => "stopping",
            Self::Stopped => VmState::Stopped.name(),
            Self::Over => "deleted",
        }
    }
}

fn done(client: ClientId) -> Action {
    Action::Answer(client, Answer::Done)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const ONE: ClientId = ClientId(1);
    const TWO: ClientId = ClientId(2);

    fn started() -> Lifecycle {
        let mut life = Lifecycle::created();
        assert_eq!(life.asked(ONE, Request::Start), [Action::Launch]);
        assert_eq!(
            life.launched(true),
            [Action::Record(VmState::Started), Action::Answer(ONE, Answer::Ready)]
        );
        life
    }

    #[test]
    fn a_stopped_vm_can_be_started_again() {
        let mut life = started();
        assert_eq!(life.asked(TWO, Request::Stop), [Action::PowerOff]);
        assert_eq!(life.machine_gone(), [Action::Record(VmState::Stopped), done(TWO)]);
        assert_eq!(life.asked(ONE, Request::Start), [Action::Launch]);
    }

    #[test]
    fn a_failed_launch_leaves_the_vm_where_it_was() {
        let mut life = Lifecycle::created();
        life.asked(ONE, Request::Start);
        assert_eq!(life.launched(false), [Action::Answer(ONE, Answer::LaunchFailed)]);
        assert_eq!(life.standing(), Standing::Created);
    }

    #[test]
    fn who_stops_a_vm_that_starts_ends_its_launch_and_its_asker_hears_of_it() {
        let mut life = Lifecycle::created();
        life.asked(ONE, Request::Start);
        let actions = life.asked(TWO, Request::Stop);
        assert!(actions.contains(&Action::GiveUpLaunch));
        assert!(actions.contains(&Action::Answer(ONE, Answer::GivenUp)));
        assert_eq!(life.launched(true), [], "whatever became of it");
    }

    #[test]
    fn who_waits_for_a_vm_that_is_deleted_hears_of_it_when_it_is_gone() {
        let mut life = Lifecycle::created();
        life.asked(ONE, Request::Start);
        assert_eq!(
            life.asked(TWO, Request::Delete),
            [Action::Leave, Action::Answer(ONE, Answer::Gone), done(TWO)]
        );
        let mut life = started();
        life.asked(ONE, Request::Stop);
        assert_eq!(life.over(), [done(ONE)]);
    }

    #[test]
    fn a_machine_that_ends_by_itself_leaves_a_stopped_vm() {
        let mut life = started();
        assert_eq!(life.machine_gone(), [Action::Record(VmState::Stopped)]);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Asked(ClientId, Request),
        Launched(bool),
        MachineGone,
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let client = (0_u32..4).prop_map(ClientId);
        let request = prop_oneof![4 => Just(Request::Start), 4 => Just(Request::Stop), 1 => Just(Request::Delete)];
        prop_oneof![
            6 => (client, request).prop_map(|(client, request)| Event::Asked(client, request)),
            3 => any::<bool>().prop_map(Event::Launched),
            2 => Just(Event::MachineGone),
        ]
    }

    /// What an owner that does as it is told would see.
    #[derive(Debug, Default)]
    struct Witness {
        launching: bool,
        running: bool,
        left: bool,
        waiting: BTreeMap<ClientId, i32>,
    }

    impl Witness {
        fn see(&mut self, actions: Vec<Action>) {
            for action in actions {
                assert!(!self.left || matches!(action, Action::Answer(..)), "{action:?}");
                match action {
                    Action::Launch => {
                        assert!(!self.launching && !self.running);
                        self.launching = true;
                    }
                    Action::GiveUpLaunch => {
                        assert!(self.launching);
                        self.launching = false;
                    }
                    Action::PowerOff => assert!(self.running),
                    Action::Record(state) => assert_eq!(state == VmState::Started, self.running),
                    Action::Answer(client, _) => *self.waiting.entry(client).or_default() -= 1,
                    Action::Leave => {
                        (self.launching, self.running, self.left) = (false, false, true);
                    }
                }
            }
        }

        /// Lets an event happen if it can.
        fn pass(&mut self, life: &mut Lifecycle, event: &Event) {
            let actions = match event {
                Event::Asked(client, request) => {
                    *self.waiting.entry(*client).or_default() += 1;
                    life.asked(*client, *request)
                }
                Event::Launched(well) if self.launching => {
                    (self.launching, self.running) = (false, *well);
                    life.launched(*well)
                }
                Event::MachineGone if self.running => {
                    self.running = false;
                    life.machine_gone()
                }
                Event::Launched(_) | Event::MachineGone => return,
            };
            self.see(actions);
        }
    }

    proptest! {
        #[test]
        fn everybody_is_answered_once_and_there_is_never_more_than_one_machine(
            events in prop::collection::vec(any_event(), 0..60),
        ) {
            let mut life = Lifecycle::created();
            let mut witness = Witness::default();
            let ending = [Event::Launched(true), Event::MachineGone];
            for event in events.iter().chain(&ending) {
                witness.pass(&mut life, event);
            }
            prop_assert!(witness.waiting.values().all(|count| *count == 0), "{witness:?}");
        }
    }
}
