//! The one task that owns a VM: waits for whatever happens next, and lets the pure
//! [`lifecycle`](crate::lifecycle) and [`conversation`](crate::conversation) decide what follows.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyro_network::RefusalWatch;
use pyro_protocol::client::{
    FromSupervisor, LaunchPhase, LaunchReport, LaunchSpec, Lifetime, ToSupervisor,
};
use pyro_protocol::failure::{Failure, FailureKind};
use pyro_protocol::frame::{Frame, FrameKind, decode_message};
use pyro_protocol::guest::ToGuest;
use pyro_protocol::network::PublishedPort;
use pyro_protocol::record::VmState;
use pyro_protocol::run::RunId;
use tokio::sync::mpsc;

use crate::boot::Vm;
use crate::clients::{Clients, Said};
use crate::conversation::{ClientId, Conversation, Note, Outgoing, WAIT_MAX};
use crate::fault::{ClientFault, GuestFault};
use crate::house::House;
use crate::launch::{self, LaunchError, Launched};
use crate::lifecycle::{Action, Answer, Lifecycle, Request, Standing};
use crate::link::Link;
use crate::machine::{self, Gone, MachineEvent};
use crate::scratch::ScratchDisk;

/// From the order to power off to QEMU's end: the guest ends its processes and writes its disk.
pub(crate) const POWER_OFF_GRACE: Duration = Duration::from_secs(20);

/// What may wait for a guest to read it. Input is bounded by credit, but a guest that guesses rightly
/// when its output is granted need not read the grants. Honest agents read always, so this is far more
/// than waits for any.
const GUEST_BACKLOG_BYTES_MAX: usize = 16 << 20;

/// A machine on its way up.
pub(crate) type Launch = Pin<Box<dyn Future<Output = Result<Launched, LaunchError>> + Send>>;

/// Everything about one VM.
struct Owner {
    spec: Arc<LaunchSpec>,
    clients: Clients,
    conversation: Conversation,
    lifecycle: Lifecycle,
    /// `None` where the VM ends with its first client.
    house: Option<House>,
    creator: ClientId,
    launch: Option<Launch>,
    /// How the first machine comes up, where it was made ahead.
    first_launch: Option<Launch>,
    phases: mpsc::UnboundedReceiver<LaunchPhase>,
    phase_sender: mpsc::UnboundedSender<LaunchPhase>,
    machine: Option<Vm>,
    /// The disk of a VM with a life of its own, from its first machine on.
    disk: Option<ScratchDisk>,
    report: Option<LaunchReport>,
    /// What the network refuses while each run is on.
    refusals: BTreeMap<RunId, RefusalWatch>,
    failure: Option<Failure>,
    expires_at: Instant,
    /// When the guest has had enough time to power off.
    power_off_deadline: Option<Instant>,
}

/// Why the VM ends for good.
enum End {
    /// With what is to be done when nothing of it is left.
    Deleted(Vec<Action>),
    /// By the client that it ends with.
    LetGo,
    CreatorGone,
    CreatorFaulty(ClientFault),
    LaunchFailed,
    MachineGone(Failure),
    TimeToLiveOver,
}

/// What happens next.
enum Event {
    Client(ClientId, Said),
    Stranger(tokio::net::UnixStream),
    Phase(LaunchPhase),
    Launched(Box<Result<Launched, LaunchError>>),
    Machine(MachineEvent),
    Time,
}

/// Owns a VM for its whole life. Nothing of it is left when this returns. `first_launch` brings its first machine up,
/// where that was made ahead.
pub(crate) async fn own(
    spec: LaunchSpec,
    creator: Link,
    house: Option<House>,
    first_launch: Option<Launch>,
) {
    let (phase_sender, phases) = mpsc::unbounded_channel();
    let mut clients = Clients::new();
    let creator = clients.admit(creator);
    let expires_at = Instant::now() + spec.time_to_live.min(WAIT_MAX);
    let owner = Owner {
        spec: Arc::new(spec),
        clients,
        conversation: Conversation::default(),
        lifecycle: Lifecycle::created(),
        house,
        creator,
        launch: None,
        first_launch,
        phases,
        phase_sender,
        machine: None,
        disk: None,
        report: None,
        refusals: BTreeMap::new(),
        failure: None,
        expires_at,
        power_off_deadline: None,
    };
    Box::pin(owner.live()).await;
}

impl Owner {
    async fn live(mut self) {
        let end = match self.begin().await {
            Some(end) => end,
            None => loop {
                let event = self.next_event().await;
                if let Some(end) = self.handle(event).await {
                    break end;
                }
                if let Some(end) = self.give_up_the_deaf().await {
                    break end;
                }
            },
        };
        self.depart(end).await;
    }

    /// A guest that does not read is of no more use.
    async fn give_up_the_deaf(&mut self) -> Option<End> {
        let backlog_bytes = self.machine.as_ref().map_or(0, |vm| vm.guest.backlog_bytes());
        if backlog_bytes <= GUEST_BACKLOG_BYTES_MAX {
            return None;
        }
        self.machine_gone(Gone::GuestFaulty(GuestFault::Deaf)).await
    }

    /// A VM that ends with its client is started at once; one with a life of its own waits for somebody
    /// to start it, but has its template made now.
    async fn begin(&mut self) -> Option<End> {
        match &self.spec.lifetime {
            Lifetime::Client | Lifetime::Spare { .. } => {
                let actions = self.lifecycle.asked(self.creator, Request::Start);
                self.act(actions)
            }
            Lifetime::Own { .. } => {
                let (spec, sender) = (Arc::clone(&self.spec), self.phase_sender.clone());
                let prepared = launch::prepare(&spec, |phase| {
                    sender.send(phase).ok();
                });
                tokio::pin!(prepared);
                loop {
                    tokio::select! {
                        biased;
                        Some(phase) = self.phases.recv() => {
                            self.clients.tell(self.creator, &FromSupervisor::Progress(phase));
                        }
                        () = &mut prepared => break,
                        // Nobody else is let in yet.
                        (_, said) = self.clients.next() => {
                            if matches!(said, Said::Left) {
                                return Some(End::CreatorGone);
                            }
                        }
                        () = tokio::time::sleep_until(self.expires_at.into()) => {
                            return Some(End::TimeToLiveOver);
                        }
                    }
                }
                self.clients.tell(self.creator, &FromSupervisor::Done);
                self.be_kept().await
            }
        }
    }

    /// Waits until the creator has heard that the VM is there, and then that others find it: one that is killed
    /// before, or gives up, cannot tell anybody its name.
    async fn be_kept(&mut self) -> Option<End> {
        if let Some(end) = self.hear_from_creator(&ToSupervisor::Keep).await {
            return Some(end);
        }
        // Without a record nobody could find it.
        if let Some(house) = &mut self.house
            && house.record(VmState::Created, asked_for(&self.spec)).is_err()
        {
            return Some(End::CreatorGone);
        }
        self.clients.tell(self.creator, &FromSupervisor::Done);
        self.hear_from_creator(&ToSupervisor::Known).await
    }

    /// Waits for the creator to say `message`; nobody else is let in yet.
    async fn hear_from_creator(&mut self, message: &ToSupervisor) -> Option<End> {
        loop {
            let said = tokio::select! {
                (_, said) = self.clients.next() => said,
                () = tokio::time::sleep_until(self.expires_at.into()) => {
                    return Some(End::TimeToLiveOver);
                }
            };
            match said {
                Said::Left => return Some(End::CreatorGone),
                Said::Frame(frame) if frame.kind == FrameKind::Message => {
                    if decode_message(&frame.payload)
                        .is_ok_and(|said: ToSupervisor| said == *message)
                    {
                        return None;
                    }
                }
                Said::Frame(_) => {}
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let deadlines = [self.conversation.next_deadline(), self.power_off_deadline];
        let deadline = deadlines.into_iter().flatten().fold(self.expires_at, Instant::min);
        tokio::select! {
            // In this order, so that no phase is reported after the outcome.
            biased;
            Some(phase) = self.phases.recv() => Event::Phase(phase),
            outcome = launched(&mut self.launch) => Event::Launched(Box::new(outcome)),
            event = machine_event(&mut self.machine) => Event::Machine(event),
            (client, said) = self.clients.next() => Event::Client(client, said),
            stream = stranger(self.house.as_ref()) => Event::Stranger(stream),
            () = tokio::time::sleep_until(deadline.into()) => Event::Time,
        }
    }

    async fn handle(&mut self, event: Event) -> Option<End> {
        let now = Instant::now();
        match event {
            Event::Stranger(stream) => self.clients.admit_stranger(stream),
            Event::Phase(phase) => {
                if let Standing::Starting { asker, .. } = self.lifecycle.standing() {
                    self.clients.tell(asker, &FromSupervisor::Progress(phase));
                }
            }
            Event::Client(client, Said::Left) => {
                if client == self.creator && self.house.is_none() {
                    return Some(End::CreatorGone);
                }
                let outgoing = self.conversation.client_left(client, now);
                self.deliver(outgoing);
            }
            Event::Client(client, Said::Frame(frame)) => {
                return self.client_said(client, &frame, now);
            }
            Event::Launched(outcome) => return self.launched(*outcome),
            Event::Machine(MachineEvent::Said(frame)) => {
                // On its way out it says goodbye, which nobody needs to hear.
                if self.lifecycle.standing() == Standing::Stopping {
                    return None;
                }
                if let Err(fault) = self.guest_said(&frame, now) {
                    return self.machine_gone(Gone::GuestFaulty(fault)).await;
                }
            }
            Event::Machine(MachineEvent::Gone(gone)) => return self.machine_gone(gone).await,
            Event::Time => return self.time_passed(now).await,
        }
        None
    }

    fn guest_said(&mut self, frame: &Frame, now: Instant) -> Result<(), GuestFault> {
        let outgoing = self.conversation.guest_sent(frame, now)?;
        // Only now is it known to be within the limits.
        if let (FrameKind::Output(stream), Some(house)) = (frame.kind, &mut self.house) {
            house.journal.append(frame.run, stream, &frame.payload);
        }
        self.deliver(outgoing);
        Ok(())
    }

    fn client_said(&mut self, client: ClientId, frame: &Frame, now: Instant) -> Option<End> {
        let request = match frame.kind {
            FrameKind::Message => match decode_message(&frame.payload) {
                Ok(ToSupervisor::StartVm) => Some(Request::Start),
                Ok(ToSupervisor::StopVm) => Some(Request::Stop),
                Ok(ToSupervisor::DeleteVm) => Some(Request::Delete),
                Ok(ToSupervisor::Start { run, .. })
                    if self.lifecycle.standing() != Standing::Started =>
                {
                    let failure =
                        self.not_now(self.lifecycle.standing(), "only a started one runs commands");
                    self.clients.tell(client, &FromSupervisor::RunFailed { run, failure });
                    return None;
                }
                Ok(_) | Err(_) => None,
            },
            FrameKind::Stdin | FrameKind::Output(_) => None,
        };
        match request {
            Some(request) if self.house.is_some() => {
                let actions = self.lifecycle.asked(client, request);
                return self.act(actions);
            }
            Some(Request::Delete) => return Some(End::LetGo),
            // A VM that ends with its client has nothing else to be asked for but runs.
            Some(_) | None => {}
        }
        match self.conversation.client_sent(client, frame, now) {
            Ok(outgoing) => self.deliver(outgoing),
            Err(fault) if client == self.creator && self.house.is_none() => {
                return Some(End::CreatorFaulty(fault));
            }
            Err(fault) => {
                let failure = Failure::from_error(FailureKind::Internal, &fault);
                self.clients.tell(client, &FromSupervisor::Failed(failure));
                let outgoing = self.conversation.client_left(client, now);
                self.deliver(outgoing);
            }
        }
        None
    }

    fn launched(&mut self, outcome: Result<Launched, LaunchError>) -> Option<End> {
        self.launch = None;
        let well = match outcome {
            Ok(Launched { vm, report, disk }) => {
                self.machine = Some(vm);
                self.disk = self.house.is_some().then_some(disk);
                self.report = Some(report);
                true
            }
            Err(error) => {
                self.failure = Some(error.into_failure());
                false
            }
        };
        let actions = self.lifecycle.launched(well);
        let end = self.act(actions);
        match end {
            None if !well && self.house.is_none() => Some(End::LaunchFailed),
            end => end,
        }
    }

    async fn machine_gone(&mut self, gone: Gone) -> Option<End> {
        let mut vm = self.machine.take()?;
        if matches!(gone, Gone::QemuEnded(_)) && self.lifecycle.standing() == Standing::Started {
            for frame in vm.last_words().await {
                if self.guest_said(&frame, Instant::now()).is_err() {
                    break;
                }
            }
        }
        vm.console.drain();
        let failure = machine::lost(gone, &self.spec.vm_id, &vm.console.last_lines());
        // Before anything is said: who hears that the machine is gone may rely on it.
        vm.destroy().await;
        if self.house.is_none() {
            return Some(End::MachineGone(failure));
        }
        self.fail_runs(&failure);
        self.power_off_deadline = None;
        let actions = self.lifecycle.machine_gone();
        self.act(actions)
    }

    async fn time_passed(&mut self, now: Instant) -> Option<End> {
        if now >= self.expires_at {
            return Some(End::TimeToLiveOver);
        }
        if self.power_off_deadline.is_some_and(|deadline| now >= deadline) {
            return self.machine_gone(Gone::GuestFaulty(GuestFault::Unresponsive)).await;
        }
        match self.conversation.deadline_reached(now) {
            Ok(outgoing) => self.deliver(outgoing),
            Err(fault) => return self.machine_gone(Gone::GuestFaulty(fault)).await,
        }
        None
    }

    fn act(&mut self, actions: Vec<Action>) -> Option<End> {
        let mut actions = actions.into_iter();
        while let Some(action) = actions.next() {
            match action {
                Action::Launch => self.begin_launch(),
                Action::GiveUpLaunch => self.launch = None,
                Action::PowerOff => self.power_off(),
                Action::Record(state) => {
                    if let Some(house) = &mut self.house {
                        let published = match &self.machine {
                            Some(vm) => vm.published(),
                            None => asked_for(&self.spec),
                        };
                        // It tells others where the VM stands; the VM itself does not depend on it.
                        house.record(state, published).ok();
                    }
                }
                Action::Answer(client, answer) => self.answer(client, answer),
                Action::Leave => return Some(End::Deleted(actions.collect())),
            }
        }
        None
    }

    fn begin_launch(&mut self) {
        if let Some(launch) = self.first_launch.take() {
            self.launch = Some(launch);
            return;
        }
        let (spec, sender) = (Arc::clone(&self.spec), self.phase_sender.clone());
        // A disk that cannot be passed on is as good as none.
        let disk = self.disk.as_ref().and_then(|disk| disk.try_clone().ok());
        self.launch = Some(Box::pin(async move {
            let progress = |phase| {
                // The receiver lives as long as the owner.
                sender.send(phase).ok();
            };
            Box::pin(launch::launch(&spec, disk, progress)).await
        }));
    }

    /// Has the guest end its processes, write its disk and stop. Its commands end with it.
    fn power_off(&mut self) {
        let failure =
            Failure::new(FailureKind::VmLost, format!("vm '{}' was stopped", self.spec.vm_id));
        self.fail_runs(&failure);
        self.power_off_deadline = Some(Instant::now() + POWER_OFF_GRACE);
        if let Some(vm) = &mut self.machine {
            // A guest that cannot be told is destroyed when its time is over.
            vm.guest.send_message(&ToGuest::PowerOff).ok();
        }
    }

    fn fail_runs(&mut self, failure: &Failure) {
        let outgoing = self.conversation.vm_gone(failure, Instant::now());
        self.deliver(outgoing);
    }

    fn answer(&mut self, client: ClientId, answer: Answer) {
        let message = match answer {
            Answer::Done => FromSupervisor::Done,
            Answer::Ready => match self.report.take() {
                Some(report) => FromSupervisor::Ready(report),
                None => return,
            },
            Answer::LaunchFailed => match self.failure.take() {
                Some(failure) => FromSupervisor::Failed(failure),
                None => return,
            },
            Answer::GivenUp => FromSupervisor::Failed(Failure::new(
                FailureKind::VmStartFailed,
                format!("vm '{}' was stopped while it started", self.spec.vm_id),
            )),
            Answer::Gone => FromSupervisor::Failed(self.gone()),
            Answer::NotNow(standing) => FromSupervisor::Failed(
                self.not_now(standing, "only a created or a stopped one can be started"),
            ),
        };
        self.clients.tell(client, &message);
    }

    fn not_now(&self, standing: Standing, what: &str) -> Failure {
        let (id, name) = (&self.spec.vm_id, standing.name());
        let failure =
            Failure::new(FailureKind::WrongVmState, format!("vm '{id}' is {name}: {what}"));
        match standing {
            Standing::Created | Standing::Stopped => failure.hint("start it first"),
            Standing::Starting { .. } | Standing::Started | Standing::Stopping | Standing::Over => {
                failure
            }
        }
    }

    fn deliver(&mut self, outgoing: Vec<Outgoing>) {
        // First, so that who hears of an end finds it in the books.
        for note in self.conversation.take_notes() {
            self.watch_refusals(&note);
            if let Some(house) = &mut self.house {
                house.journal.note(note);
            }
        }
        for frame in outgoing {
            match frame {
                Outgoing::ToClient(client, bytes) => self.clients.send(client, bytes),
                Outgoing::Ended { client, run, mut end } => {
                    if let Some(watch) = self.refusals.remove(&end.number) {
                        end.refusals = watch.refusals();
                    }
                    if let Some(house) = &mut self.house {
                        house.journal.note_end(end.clone());
                    }
                    self.clients.tell(client, &FromSupervisor::Ended { run, end });
                }
                Outgoing::ToGuest(bytes) => {
                    if let Some(vm) = &mut self.machine {
                        vm.guest.send(&bytes);
                    }
                }
            }
        }
    }

    /// Keeps what is refused while a run is on, from before the guest hears of it.
    fn watch_refusals(&mut self, note: &Note) {
        match note {
            Note::Began { run, .. } => {
                let network = self.machine.as_ref().and_then(Vm::running_network);
                if let Some(network) = network {
                    self.refusals.insert(*run, network.refusals().watch());
                }
            }
            Note::Failed { run, .. } => {
                self.refusals.remove(run);
            }
        }
    }

    /// Destroys what there is, and then tells everybody.
    async fn depart(mut self, end: End) {
        (self.launch, self.first_launch) = (None, None);
        if matches!(end, End::LetGo) && self.machine.as_mut().is_none_or(Vm::cut_off) {
            self.clients.tell(self.creator, &FromSupervisor::Done);
        }
        if let Some(vm) = self.machine.take() {
            vm.destroy().await;
        }
        let (failure, farewells) = match end {
            // Whoever waited for the launch, or for the end, has heard of it.
            End::CreatorGone | End::LaunchFailed | End::LetGo => (None, Vec::new()),
            End::MachineGone(failure) => (Some(failure), Vec::new()),
            End::CreatorFaulty(fault) => {
                (Some(Failure::from_error(FailureKind::Internal, &fault)), Vec::new())
            }
            End::Deleted(farewells) => (Some(self.gone()), farewells),
            End::TimeToLiveOver => (Some(self.expired()), self.lifecycle.over()),
        };
        // Before anybody hears of it: who does may rely on it.
        drop((self.disk.take(), self.house.take()));
        if let Some(failure) = failure {
            self.fail_runs(&failure);
        }
        for farewell in farewells {
            if let Action::Answer(client, answer) = farewell {
                self.answer(client, answer);
            }
        }
        self.clients.farewell().await;
    }

    /// What somebody is told who still wants something of a VM that is gone.
    fn gone(&self) -> Failure {
        if Instant::now() >= self.expires_at {
            return self.expired();
        }
        Failure::new(FailureKind::UnknownVm, format!("vm '{}' was deleted", self.spec.vm_id))
    }

    fn expired(&self) -> Failure {
        let text = format!("vm '{}' expired and was automatically deleted", self.spec.vm_id);
        Failure::new(FailureKind::VmExpired, text)
            .hint("ask for a longer life with `ttl_seconds` (3600 at most)")
    }
}

/// The ports that a VM publishes once its machine runs.
fn asked_for(spec: &LaunchSpec) -> &[PublishedPort] {
    spec.network.as_ref().map_or(&[], |network| &network.published)
}

async fn launched(launch: &mut Option<Launch>) -> Result<Launched, LaunchError> {
    match launch {
        Some(launch) => launch.await,
        None => std::future::pending().await,
    }
}

async fn machine_event(machine: &mut Option<Vm>) -> MachineEvent {
    match machine {
        Some(vm) => vm.next_event().await,
        None => std::future::pending().await,
    }
}

async fn stranger(house: Option<&House>) -> tokio::net::UnixStream {
    match house {
        Some(house) => house.next_client().await,
        None => std::future::pending().await,
    }
}
