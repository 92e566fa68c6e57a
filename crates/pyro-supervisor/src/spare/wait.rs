//! A spare that waits for its claim, and how it becomes its claimer's VM.

use std::pin::pin;
use std::time::{Duration, Instant};

use pyro_network::PreparedNetwork;
use pyro_protocol::client::{
    Claim, FromSupervisor, LaunchPhase, LaunchReport, LaunchSpec, Lifetime, StartKind, ToSupervisor,
};
use pyro_protocol::failure::{Failure, FailureKind};
use pyro_protocol::frame::{FrameKind, decode_message};
use pyro_protocol::record::SpareRecord;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::house::SpareHouse;
use super::make::{self, MakeSpareError, Spare};
use crate::background;
use crate::boot;
use crate::conversation::WAIT_MAX;
use crate::guest_files::{self, ReadFile};
use crate::journal::since_epoch;
use crate::launch::{LaunchError, Launched, StepClock};
use crate::link::Link;
use crate::owner::Launch;

/// From a connection to what it asks for.
const ASKING_DEADLINE: Duration = Duration::from_secs(5);

/// For whoever is told something to take it, where nobody must wait for long.
const TELLING_DEADLINE: Duration = Duration::from_secs(1);

/// Connections that have not asked for anything yet. One too many is closed at once.
const ASKERS_MAX: usize = 64;

/// From the order to go on to the guest's readiness, a matter of ten milliseconds. Whoever waits longer is better off with
/// a VM restored from its template.
pub(super) const RESUME_DEADLINE: Duration = Duration::from_secs(10);

/// What a spare is made for.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) directory: std::path::PathBuf,
    pub(crate) environment: String,
    pub(crate) warm_up: Vec<String>,
    pub(crate) idle_max: Duration,
}

/// A spare that somebody has claimed.
pub(crate) struct Claimed {
    pub(crate) spec: LaunchSpec,
    pub(crate) claimer: Link,
    /// How it goes on, as its claimer's.
    pub(crate) resume: Launch,
    /// Sees that the VM is gone by the end of this connection.
    pub(crate) owner: Link,
}

/// What comes to a spare.
struct Asked {
    link: Link,
    message: ToSupervisor,
}

/// What only the claim tells, made ready before the machine goes on.
struct Belongings {
    network: Option<PreparedNetwork>,
    files: Vec<ReadFile>,
}

/// Makes a spare and has it wait. `None` when it is gone without a claim, and nothing of it is left.
pub(crate) async fn serve(spec: LaunchSpec, terms: Terms, mut owner: Link) -> Option<Claimed> {
    let spare = match Box::pin(made(&spec, &terms.warm_up, &mut owner)).await? {
        Ok(spare) => spare,
        Err(error) => return refuse(owner, error.into_failure()).await,
    };
    let house = match SpareHouse::open(&terms.directory, &spare.key, &spec.vm_id) {
        Ok(house) => house,
        Err(error) => {
            let failure = Failure::from_error(FailureKind::VmStartFailed, &error);
            return refuse(owner, failure.context("cannot let others find the spare")).await;
        }
    };
    owner.send_message(&FromSupervisor::Done).ok()?;
    wait(spec, &terms, spare, house, owner).await
}

/// `None` where the owner leaves before the end.
async fn made(
    spec: &LaunchSpec,
    warm_up: &[String],
    owner: &mut Link,
) -> Option<Result<Spare, MakeSpareError>> {
    let (sender, mut phases) = mpsc::unbounded_channel();
    let mut making = pin!(make::make(spec, warm_up, |phase: LaunchPhase| {
        // The receiver lives as long as this.
        sender.send(phase).ok();
    }));
    loop {
        tokio::select! {
            // In this order, so that no phase is reported after the outcome.
            biased;
            Some(phase) = phases.recv() => {
                owner.send_message(&FromSupervisor::Progress(phase)).ok()?;
            }
            made = &mut making => return Some(made),
            // It has nothing more to say. While it is listened to, it is written to.
            said = owner.next_frame() => drop(said.ok()?),
        }
    }
}

async fn refuse(mut owner: Link, failure: Failure) -> Option<Claimed> {
    tell(&mut owner, &FromSupervisor::Failed(failure)).await;
    None
}

async fn wait(
    mut spec: LaunchSpec,
    terms: &Terms,
    mut spare: Spare,
    house: SpareHouse,
    mut owner: Link,
) -> Option<Claimed> {
    let gone_at = Instant::now() + terms.idle_max.min(WAIT_MAX);
    let created_at = since_epoch();
    let mut askers = JoinSet::new();
    loop {
        let asked = tokio::select! {
            // A machine that stands still says nothing; whatever there is, it is of no more use.
            _ = spare.vm.next_event() => return None,
            said = owner.next_frame() => {
                said.ok()?;
                continue;
            }
            stream = house.next_client() => {
                if askers.len() < ASKERS_MAX {
                    askers.spawn(tokio::time::timeout(ASKING_DEADLINE, ask(stream)));
                }
                continue;
            }
            Some(asked) = askers.join_next() => asked,
            () = tokio::time::sleep_until(gone_at.into()) => return None,
        };
        let Ok(Ok(Some(Asked { mut link, message }))) = asked else { continue };
        match message {
            ToSupervisor::Claim(claim) => {
                let clock = StepClock::start();
                match belongings(&spec, &claim).await {
                    Ok(belongings) => {
                        // Nobody else finds it from here on.
                        drop((house, askers));
                        // What goes wrong from here on is this claimer's affair.
                        let resuming = FromSupervisor::Progress(LaunchPhase::ResumingSpare);
                        tell(&mut link, &resuming).await;
                        tell(&mut owner, &FromSupervisor::Claimed).await;
                        spec.vm_id = claim.vm_id;
                        spec.time_to_live = claim.time_to_live;
                        spec.network = claim.network;
                        spec.guest_files = claim.guest_files;
                        spec.lifetime = Lifetime::Client;
                        let vm_id = spec.vm_id.clone();
                        let resume = Box::pin(resume(spare, vm_id, belongings, clock));
                        return Some(Claimed { spec, claimer: link, resume, owner });
                    }
                    // It is as it was, for somebody who asks for what can be had.
                    Err(failure) => {
                        tell(&mut link, &FromSupervisor::Failed(failure)).await;
                    }
                }
            }
            ToSupervisor::DescribeSpare => {
                let record = SpareRecord {
                    id: spec.vm_id.clone(),
                    environment: terms.environment.clone(),
                    vcpu_count: spec.vcpu_count,
                    memory_mib: spec.memory_mib,
                    has_network: spec.network.is_some(),
                    accelerator: spec.accelerator,
                    created_at,
                    time_left: gone_at.saturating_duration_since(Instant::now()),
                    private_bytes: spare.vm.qemu.private_bytes(),
                };
                tell(&mut link, &FromSupervisor::Spare(Box::new(record))).await;
            }
            // Nothing else can be had of a spare; its connection is closed.
            ToSupervisor::Launch(_)
            | ToSupervisor::Start { .. }
            | ToSupervisor::GrantOutput { .. }
            | ToSupervisor::Cancel { .. }
            | ToSupervisor::Keep
            | ToSupervisor::StartVm
            | ToSupervisor::StopVm
            | ToSupervisor::DeleteVm
            | ToSupervisor::Resize { .. }
            | ToSupervisor::Known => {}
        }
    }
}

/// What somebody who has connected asks for; `None` where that is nothing.
async fn ask(stream: UnixStream) -> Option<Asked> {
    let mut link = Link::answer(stream).await.ok()?;
    let frame = link.next_frame().await.ok()?;
    match frame.kind {
        FrameKind::Message => {
            let message = decode_message(&frame.payload).ok()?;
            Some(Asked { link, message })
        }
        FrameKind::Stdin | FrameKind::Output(_) => None,
    }
}

async fn tell(link: &mut Link, message: &FromSupervisor) {
    if link.send_message(message).is_ok() {
        // Who has gone need not be told.
        tokio::time::timeout(TELLING_DEADLINE, link.flush()).await.ok();
    }
}

/// Makes ready what `claim` asks for, or says why it cannot be had.
async fn belongings(spec: &LaunchSpec, claim: &Claim) -> Result<Belongings, Failure> {
    if spec.network.is_some() != claim.network.is_some() {
        let text = "a spare either has a network device or has none, from its start on";
        return Err(Failure::new(FailureKind::Internal, text));
    }
    let network = claim.network.clone().map(PreparedNetwork::new).transpose();
    let network = network.map_err(|source| LaunchError::Publish { source }.into_failure())?;
    let files = if claim.guest_files.is_empty() {
        Vec::new()
    } else {
        let files = claim.guest_files.clone();
        let read = background::run(move || guest_files::read(&files)).await;
        read.map_err(|source| LaunchError::GuestFile { source }.into_failure())?
    };
    Ok(Belongings { network, files })
}

/// Has the machine go on, as its claimer's VM.
async fn resume(
    spare: Spare,
    vm_id: String,
    belongings: Belongings,
    clock: StepClock,
) -> Result<Launched, LaunchError> {
    let resumed = resume_without_deadline(spare, &vm_id, belongings, clock);
    let deadline = RESUME_DEADLINE;
    tokio::time::timeout(deadline, resumed)
        .await
        .unwrap_or(Err(LaunchError::ResumeTooLate { deadline }))
}

async fn resume_without_deadline(
    mut spare: Spare,
    vm_id: &str,
    belongings: Belongings,
    mut clock: StepClock,
) -> Result<Launched, LaunchError> {
    clock.step_done("claim");
    let vm = &mut spare.vm;
    vm.monitor.resume().await.map_err(|source| LaunchError::NotResumed { source })?;
    boot::configure(vm, vm_id).await.map_err(|source| LaunchError::Boot { source })?;
    clock.step_done("resume");
    guest_files::write(vm, belongings.files)
        .await
        .map_err(|source| LaunchError::GuestFile { source })?;
    if let Some(network) = belongings.network {
        vm.connect(network).map_err(|source| LaunchError::Network { source })?;
    }
    let report = LaunchReport {
        start: StartKind::Spare,
        steps: clock.into_steps(),
        boot: spare.boot,
        boot_attempts: 0,
        published: vm.published().to_vec(),
    };
    Ok(Launched { vm: spare.vm, report, disk: spare.disk })
}
