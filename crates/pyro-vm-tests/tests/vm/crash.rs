//! SIGKILL, hundreds of times: of clients, supervisors and QEMUs, at random moments of whatever a VM can be
//! asked for, several at once. Nothing is left of those, and who stands by does not notice.
//!
//! The moments are drawn from a seed, which is printed; the variable `PYRO_CRASH_SEED` sets it, and
//! `PYRO_CRASH_KILLS` says how many there are to be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyro_vm_tests::chance::{Chance, seed, variable};
use pyro_vm_tests::{BASE, Bystanders, Host, Outcome, Process, Range, Running};

/// As many as make some of each kind, and take three minutes on two busy CPUs.
const KILLS: u64 = 300;

/// VMs that are worked on at the same time.
const WORKERS: u64 = 4;

/// After a victim was not there at the moment that was drawn, another is drawn, this often.
const MISSES_MAX: u32 = 10;

/// After that, the moment is drawn from when the victim is seen, this often at most. On a busy host some live
/// for too small a part of what is done to be hit by chance.
const AMBUSHES_MAX: u32 = 40;

/// What is killed together is killed within this.
const VOLLEY: Duration = Duration::from_millis(20);

/// What a client is for when something is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    /// `pyro run` in a shape that has no template yet.
    RunFirst,
    Run,
    Create,
    CreateAndStart,
    Start,
    /// A boot, from the disk that a stop has left.
    StartAgain,
    Exec,
    Stop,
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Client,
    Supervisor,
    Qemu,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// At any moment of the time that it takes.
    ByChance,
    /// Soon after the victim is seen.
    AtSight,
}

/// Who is killed, and how often in a round. Boots are slow, so there are few.
const ROUND: [(Deed, Victim, usize); 22] = [
    (Deed::Run, Victim::Client, 3),
    (Deed::Run, Victim::Supervisor, 3),
    (Deed::Run, Victim::Qemu, 3),
    (Deed::Create, Victim::Client, 4),
    (Deed::Create, Victim::Supervisor, 4),
    (Deed::CreateAndStart, Victim::Client, 2),
    (Deed::CreateAndStart, Victim::Supervisor, 3),
    (Deed::CreateAndStart, Victim::Qemu, 2),
    (Deed::Start, Victim::Client, 2),
    (Deed::Start, Victim::Supervisor, 3),
    (Deed::Start, Victim::Qemu, 2),
    (Deed::StartAgain, Victim::Client, 1),
    (Deed::StartAgain, Victim::Supervisor, 1),
    (Deed::StartAgain, Victim::Qemu, 1),
    (Deed::Exec, Victim::Client, 5),
    (Deed::Exec, Victim::Supervisor, 4),
    (Deed::Exec, Victim::Qemu, 4),
    (Deed::Stop, Victim::Client, 2),
    (Deed::Stop, Victim::Supervisor, 2),
    (Deed::Stop, Victim::Qemu, 2),
    (Deed::Delete, Victim::Client, 2),
    (Deed::Delete, Victim::Supervisor, 2),
];

/// Once in all, before the rounds.
const FIRST: [(Deed, Victim); 3] = [
    (Deed::RunFirst, Victim::Client),
    (Deed::RunFirst, Victim::Supervisor),
    (Deed::RunFirst, Victim::Qemu),
];

/// A command with something to do for everybody: processes, memory, output, disk.
const WORK: &str = "i=0; while [ $i -lt 5 ]; do head -c 300000 /dev/urandom | tee -a /root/work | md5sum; \
    i=$((i+1)); done; sync";

/// Errors that tell what was killed; any other is a defect.
const EXPECTED_ERRORS: [&str; 4] = ["vm_lost", "vm_start_failed", "unknown_vm", "wrong_vm_state"];

#[test]
fn whatever_is_killed_at_any_moment_nothing_is_left_and_nobody_else_notices() {
    let seed = seed("PYRO_CRASH_SEED");
    println!("PYRO_CRASH_SEED={seed}");
    let host = Host::for_vms(usize::MAX);
    let range = Range::new(&host);
    let bystanders = Bystanders::begin(&range);

    let massacre = Massacre::new(&range, seed);
    std::thread::scope(|scope| {
        for number in 0..WORKERS {
            let massacre = &massacre;
            scope.spawn(move || Worker::new(massacre, number, seed).work());
        }
    });
    println!("{}", massacre.summary());

    range.assert_that_only_these_are_left(&bystanders.ids());
    // Only now has the last of them been dead at a look.
    range.list();
    let groups = massacre.groups.into_inner().unwrap();
    assert_eq!(groups.into_iter().find(|group| group.exists()), None);
    bystanders.assert_unharmed(&range);
    range.assert_that_nothing_is_left();
}

/// What the workers share.
struct Massacre<'range, 'host> {
    range: &'range Range<'host>,
    schedule: Mutex<(Chance, Vec<(Deed, Victim)>)>,
    kills_min: u64,
    kills: Mutex<BTreeMap<(Deed, Victim), u64>>,
    misses: Mutex<BTreeMap<(Deed, Victim), u64>>,
    /// How long each deed takes when it is left alone.
    spans: Mutex<BTreeMap<Deed, Duration>>,
    shapes: AtomicUsize,
    /// Control groups of QEMUs that were seen.
    groups: Mutex<BTreeSet<PathBuf>>,
    began: Instant,
}

impl<'range, 'host> Massacre<'range, 'host> {
    fn new(range: &'range Range<'host>, seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        // The last is next.
        let mut schedule = round(&mut chance);
        schedule.extend(FIRST);
        Self {
            range,
            schedule: Mutex::new((chance, schedule)),
            kills_min: variable("PYRO_CRASH_KILLS").unwrap_or(KILLS),
            kills: Mutex::default(),
            misses: Mutex::default(),
            spans: Mutex::default(),
            shapes: AtomicUsize::new(0),
            groups: Mutex::default(),
            began: Instant::now(),
        }
    }

    /// Who is next, until enough are dead and everybody had a turn.
    fn next(&self) -> Option<(Deed, Victim)> {
        let (chance, schedule) = &mut *self.schedule.lock().unwrap();
        if schedule.is_empty() {
            if self.kills.lock().unwrap().values().sum::<u64>() >= self.kills_min {
                return None;
            }
            *schedule = round(chance);
        }
        schedule.pop()
    }

    fn killed(&self, deed: Deed, victim: Victim) {
        *self.kills.lock().unwrap().entry((deed, victim)).or_default() += 1;
    }

    /// The time within which a deed is interrupted. Before it was left alone once, a guess.
    fn span(&self, deed: Deed) -> Duration {
        let guess = match deed {
            Deed::RunFirst => Duration::from_secs(6),
            Deed::StartAgain => Duration::from_secs(4),
            Deed::Create | Deed::Delete => Duration::from_millis(150),
            Deed::Run | Deed::CreateAndStart | Deed::Start | Deed::Exec | Deed::Stop => {
                Duration::from_secs(1)
            }
        };
        self.spans.lock().unwrap().get(&deed).copied().unwrap_or(guess)
    }

    fn summary(&self) -> String {
        let kills = self.kills.lock().unwrap();
        let (sum, seconds) = (kills.values().sum::<u64>(), self.began.elapsed().as_secs());
        let misses = self.misses.lock().unwrap();
        let spans = self.spans.lock().unwrap();
        format!("{sum} kills in {seconds} s: {kills:?}\nmisses: {misses:?}\n{spans:?}")
    }
}

/// Everybody's turns, in any order.
fn round(chance: &mut Chance) -> Vec<(Deed, Victim)> {
    let turns = ROUND.iter().flat_map(|&(deed, victim, times)| vec![(deed, victim); times]);
    let mut turns: Vec<_> = turns.collect();
    chance.shuffle(&mut turns);
    turns
}

/// Makes VMs, has them do something, and kills.
struct Worker<'massacre> {
    massacre: &'massacre Massacre<'massacre, 'massacre>,
    range: &'massacre Range<'massacre>,
    name: String,
    chance: Chance,
    /// A VM that was started, and is well.
    vm: Option<String>,
}

impl<'massacre> Worker<'massacre> {
    fn new(massacre: &'massacre Massacre<'massacre, 'massacre>, number: u64, seed: u64) -> Self {
        let chance = Chance::new(seed ^ (number + 1) << 32);
        Self { massacre, range: massacre.range, name: number.to_string(), chance, vm: None }
    }

    fn work(mut self) {
        while let Some((deed, victim)) = self.massacre.next() {
            let hit = (0..MISSES_MAX).any(|_| self.strike(deed, victim, Aim::ByChance))
                || (0..AMBUSHES_MAX).any(|_| self.strike(deed, victim, Aim::AtSight));
            assert!(hit, "{deed:?}: {victim:?} was never there");
        }
        if let Some(id) = self.vm.take() {
            self.range.delete(&id);
        }
    }

    /// Begins what is to be done, and kills at a random moment; false if the victim was not there.
    #[allow(clippy::disallowed_methods, reason = "any moment will do, and that is the point")]
    fn strike(&mut self, deed: Deed, victim: Victim, aim: Aim) -> bool {
        let id = self.prepare(deed);
        let span = match aim {
            Aim::ByChance => self.massacre.span(deed),
            Aim::AtSight => VOLLEY,
        };
        let delay = self.chance.below(span);
        let began = Instant::now();
        let client = self.begin(deed, id.as_deref());
        let look = || {
            let named = || self.range.vms().supervisor(id.as_deref()?);
            let supervisor = client.supervisor().or_else(named);
            let qemu = self.range.vms().qemu_of(supervisor.as_ref()?);
            Some((supervisor?, qemu))
        };
        if aim == Aim::AtSight {
            let is_there = || match victim {
                Victim::Client => true,
                Victim::Supervisor => look().is_some(),
                Victim::Qemu => look().is_some_and(|(_, qemu)| qemu.is_some()),
            };
            while !is_there() && !client.ends_within(Duration::ZERO) {}
        }
        std::thread::sleep(delay);

        let (supervisor, qemu) = look().unzip();
        let qemu = qemu.flatten();
        if let Some(qemu) = &qemu {
            self.massacre.groups.lock().unwrap().extend(qemu.control_groups());
        }
        let mut volley = vec![victim];
        if self.chance.one_in(3) {
            let mut others = vec![Victim::Client, Victim::Supervisor, Victim::Qemu];
            others.retain(|other| *other != victim);
            self.chance.shuffle(&mut others);
            volley.extend(others);
        }
        let mut killed = Vec::new();
        for one in volley {
            let process = match one {
                Victim::Client => {
                    client.kill_itself();
                    continue;
                }
                Victim::Supervisor => &supervisor,
                Victim::Qemu => &qemu,
            };
            if process.as_ref().is_some_and(Process::kill_if_there) {
                killed.push(one);
            } else if one == victim {
                break;
            }
            std::thread::sleep(self.chance.below(VOLLEY));
        }
        let outcome = client.outcome();
        if outcome.was_killed() {
            killed.push(Victim::Client);
        } else {
            check(deed, &outcome, !killed.is_empty());
        }
        for one in &killed {
            self.massacre.killed(deed, *one);
        }
        if killed.is_empty() {
            self.massacre.spans.lock().unwrap().insert(deed, began.elapsed());
        }
        self.clear_up(deed, id, &killed);
        let hit = killed.contains(&victim);
        if !hit {
            *self.massacre.misses.lock().unwrap().entry((deed, victim)).or_default() += 1;
        }
        hit
    }

    /// The VM with which it is to be done.
    fn prepare(&mut self, deed: Deed) -> Option<String> {
        match deed {
            Deed::RunFirst | Deed::Run | Deed::Create | Deed::CreateAndStart => None,
            Deed::Start => Some(self.create(&[])),
            Deed::StartAgain => {
                let id = self.started();
                self.range.json(&["vm", "stop", "--json", &id]);
                Some(id)
            }
            Deed::Exec | Deed::Stop | Deed::Delete => Some(self.started()),
        }
    }

    fn create(&self, options: &[&str]) -> String {
        let worker = format!("worker={}", self.name);
        self.range.create(&[&["--metadata", &worker], options].concat())
    }

    fn started(&mut self) -> String {
        self.vm.take().unwrap_or_else(|| self.create(&["--start"]))
    }

    fn begin(&self, deed: Deed, id: Option<&str>) -> Running {
        let worker = format!("worker={}", self.name);
        let create = ["vm", "create", "--json", BASE, "--metadata", &worker];
        let id = id.unwrap_or_default();
        let start = |arguments: &[&str]| self.range.start(arguments);
        match deed {
            Deed::RunFirst => {
                let number = self.massacre.shapes.fetch_add(1, Ordering::Relaxed);
                let mib = (256 + number).to_string();
                start(&["run", "--json", "--mem-mib", &mib, BASE, "--", "sh", "-c", WORK])
            }
            Deed::Run => start(&["run", "--json", BASE, "--", "sh", "-c", WORK]),
            Deed::Create => start(&create),
            Deed::CreateAndStart => start(&[&create[..], &["--start"]].concat()),
            Deed::Start | Deed::StartAgain => start(&["vm", "start", "--json", id]),
            Deed::Exec => start(&["vm", "exec", "--json", id, "--", "sh", "-c", WORK]),
            Deed::Stop => start(&["vm", "stop", "--json", id]),
            Deed::Delete => start(&["vm", "delete", "--json", id]),
        }
    }

    /// Deletes what lives on. Of what does not, the next look removes the rest.
    fn clear_up(&mut self, deed: Deed, id: Option<String>, killed: &[Victim]) {
        match (deed, id) {
            (Deed::Create | Deed::CreateAndStart, _) => {
                for (id, worker) in self.range.list() {
                    if worker.as_ref() == Some(&self.name) && self.vm.as_ref() != Some(&id) {
                        // Its supervisor may still be dying.
                        self.range.delete_if_there(&id);
                    }
                }
            }
            // A command ends with its client, and the VM goes on.
            (Deed::Exec, Some(id)) if killed.iter().all(|it| *it == Victim::Client) => {
                self.vm = Some(id);
            }
            // Whether it was asked for in time is not known.
            (Deed::Delete, Some(id)) => self.range.delete_if_there(&id),
            (_, Some(id)) if !killed.contains(&Victim::Supervisor) => self.range.delete(&id),
            (_, Some(_) | None) => {}
        }
    }
}

/// Whoever was not killed says what happened, as it should.
#[track_caller]
fn check(deed: Deed, outcome: &Outcome, something_was_killed: bool) {
    if outcome.exit_code() == 0 {
        return;
    }
    assert!(something_was_killed, "{deed:?}: {outcome:#?}");
    let code = outcome.json()["error"]["code"].clone();
    let is_expected = EXPECTED_ERRORS.iter().any(|expected| code == *expected);
    assert!(is_expected, "{deed:?}: {outcome:#?}");
}
