//! Many come for few spares, and anybody may be killed: clients, which are also interrupted and run out of time,
//! supervisors and QEMUs, and whoever keeps the spares. Each VM is used once, whoever is not killed says what happened,
//! nothing is left, and who stands by does not notice.
//!
//! What happens is drawn from a seed, which is printed; the variable `PYRO_STAMPEDE_SEED` sets it, and
//! `PYRO_STAMPEDE_SECONDS` says how long it goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use pyro_vm_tests::chance::{Chance, seed, variable};
use pyro_vm_tests::{BASE, Bystanders, Host, Outcome, Process, Range, Role, Running};
use rustix::process::Signal;
use serde_json::Value;

/// Long enough for everything to happen several times on two busy CPUs.
const SECONDS: u64 = 120;

/// Spares that must have been claimed, and what a busy host is given for it.
const CLAIMS_MIN: u64 = 10;
const MORE_TIME: Duration = Duration::from_mins(5);

/// Clients at the same time: more than there are spares.
const CLAIMERS: u64 = 4;

/// A run of a spare takes a tenth of a second, one of a clone a second: within this, whatever happens to it happens.
const RUN: Duration = Duration::from_millis(400);

/// `pyro warm` takes some seconds for each spare.
const WARM: Duration = Duration::from_secs(8);

/// From one thing that happens to whoever keeps spares to the next one, at most.
const PEACE: Duration = Duration::from_secs(25);

/// How long a claimer waits for a spare to come for.
const PATIENCE: Duration = Duration::from_secs(30);

/// For whoever depended on a process that was killed.
const NOTICED: Duration = Duration::from_mins(1);

/// What a run finds of those before it in the same VM, which must be nothing; who it is; and something to do.
const SCRIPT: &str = "ls -A /root /dev/shm /tmp | grep mark
    cat /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; hostname
    touch /root/mark /dev/shm/mark /tmp/mark
    head -c 300000 /dev/urandom | tee /root/work | md5sum >&2; sync";

/// Lines of an output in which nothing of another run was found.
const LINES: usize = 4;

/// Errors that tell what was killed; any other is a defect.
const EXPECTED_ERRORS: [&str; 2] = ["vm_lost", "vm_start_failed"];

/// What becomes of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    LeftAlone,
    OutOfTime,
    /// By Ctrl-C.
    Interrupted,
    Terminated,
    Killed,
    /// The supervisor of some spare or VM is killed.
    SupervisorKilled,
    QemuKilled,
}

const FATES: [(Fate, usize); 7] = [
    (Fate::LeftAlone, 8),
    (Fate::OutOfTime, 1),
    (Fate::Interrupted, 2),
    (Fate::Terminated, 2),
    (Fate::Killed, 2),
    (Fate::SupervisorKilled, 1),
    (Fate::QemuKilled, 1),
];

/// What happens to whoever keeps spares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// It is killed, and another one started.
    Killed,
    /// It is ended, and another one started.
    Stopped,
    /// Another one is started beside it.
    Another,
    /// Another one is started, and it cannot answer that.
    Frozen,
    /// Another `pyro warm` is killed while it starts.
    StarterKilled,
    StarterInterrupted,
}

const TURNS: [Turn; 6] = [
    Turn::Killed,
    Turn::Stopped,
    Turn::Another,
    Turn::Frozen,
    Turn::StarterKilled,
    Turn::StarterInterrupted,
];

#[test]
fn each_spare_is_used_once_and_nothing_is_left_whoever_is_killed() {
    let seed = seed("PYRO_STAMPEDE_SEED");
    println!("PYRO_STAMPEDE_SEED={seed}");
    let host = Host::for_vms(usize::MAX);
    let range = Range::new(&host);
    let bystanders = Bystanders::begin(&range);

    let stampede = Stampede::new(&range, bystanders.pids().to_vec());
    assert!(stampede.warm(3).ends_well());
    std::thread::scope(|scope| {
        for number in 0..CLAIMERS {
            let (stampede, chance) = (&stampede, Chance::new(seed ^ (number + 1) << 32));
            scope.spawn(move || Claimer { stampede, chance }.claim());
        }
        let (stampede, chance) = (&stampede, Chance::new(seed));
        scope.spawn(move || Keeping { stampede, chance }.keep());
    });
    println!("{}", stampede.summary());

    range.json(&["warm", "--stop", "--json"]);
    range.assert_that_only_these_are_left(&bystanders.ids());
    // Only now has the last of them been dead at a look.
    let status = range.json(&["warm", "--status", "--json"]);
    assert_eq!(
        (&status["keepers"], &status["spares"]),
        (&Value::Array(vec![]), &Value::Array(vec![]))
    );
    range.list();
    let doctor = range.json(&["doctor", "--json"]);
    assert_eq!(doctor["leftovers"], Value::Array(vec![]));
    let counts = stampede.end();
    let claims = counts.get("spare").copied().unwrap_or_default();
    assert!(claims >= CLAIMS_MIN, "only {claims} VMs were spares: {counts:?}");
    bystanders.assert_unharmed(&range);
    range.assert_that_nothing_is_left();
}

/// What everybody shares.
struct Stampede<'range, 'host> {
    range: &'range Range<'host>,
    /// Processes that nobody kills.
    spared: Vec<i32>,
    began: Instant,
    until: Instant,
    /// When supervisors and QEMUs were killed.
    kills: Mutex<Vec<Instant>>,
    /// Machine ids, boot ids, random numbers and host names of all VMs.
    identities: Mutex<Vec<String>>,
    /// How often what happened.
    counts: Mutex<BTreeMap<String, u64>>,
    /// Control groups of QEMUs that were seen.
    groups: Mutex<BTreeSet<PathBuf>>,
}

impl<'range, 'host> Stampede<'range, 'host> {
    fn new(range: &'range Range<'host>, spared: Vec<i32>) -> Self {
        let began = Instant::now();
        let seconds = variable("PYRO_STAMPEDE_SECONDS").unwrap_or(SECONDS);
        Self {
            range,
            spared,
            began,
            until: began + Duration::from_secs(seconds),
            kills: Mutex::default(),
            identities: Mutex::default(),
            counts: Mutex::default(),
            groups: Mutex::default(),
        }
    }

    fn goes_on(&self) -> bool {
        let now = Instant::now();
        let lacks = self.counts.lock().unwrap().get("spare").is_none_or(|&it| it < CLAIMS_MIN);
        now < self.until || (lacks && now < self.until + MORE_TIME)
    }

    fn count(&self, what: impl Into<String>) {
        *self.counts.lock().unwrap().entry(what.into()).or_default() += 1;
    }

    /// Begins to keep that many spares.
    fn warm(&self, count: u64) -> Warming {
        let count = count.to_string();
        let words = ["warm", BASE, "--count", &count, "--for", "30m", "--json"];
        Warming(self.range.start(&words))
    }

    /// Kills somebody's supervisor or QEMU; false where there is none.
    fn kill(&self, role: Role, chance: &mut Chance) -> bool {
        let mut processes = self.range.vms().processes(role);
        processes.retain(|process| !self.spared.contains(&process.pid()));
        chance.shuffle(&mut processes);
        let Some(victim) = processes.first() else { return false };
        self.note_groups(victim);
        // Before, so that it is known to whoever sees it fail.
        self.kills.lock().unwrap().push(Instant::now());
        victim.kill_if_there()
    }

    /// By itself, or by its QEMU, a supervisor does not tell.
    fn note_groups(&self, process: &Process) {
        let qemu = self.range.vms().qemu_of(process);
        let groups = qemu.as_ref().unwrap_or(process).control_groups();
        self.groups.lock().unwrap().extend(groups);
    }

    /// Whether a supervisor or a QEMU was killed since then.
    fn somebody_was_killed_since(&self, begin: Instant) -> bool {
        self.kills.lock().unwrap().iter().any(|at| *at >= begin)
    }

    fn summary(&self) -> String {
        let counts = self.counts.lock().unwrap();
        format!("{} s: {counts:?}", self.began.elapsed().as_secs())
    }

    /// Fails if two VMs were the same, or one has left its control group; gives how often what happened.
    fn end(self) -> BTreeMap<String, u64> {
        let identities = self.identities.into_inner().unwrap();
        let different: BTreeSet<_> = identities.iter().collect();
        assert_eq!(different.len(), identities.len(), "two VMs are the same");
        let groups = self.groups.into_inner().unwrap();
        assert_eq!(groups.into_iter().find(|group| group.exists()), None);
        self.counts.into_inner().unwrap()
    }
}

/// A `pyro warm` that has not returned yet.
struct Warming(Running);

impl Warming {
    /// Whether it has made its spares. It may have been hit: its spares are among those that are killed.
    fn ends_well(self) -> bool {
        let outcome = self.0.outcome();
        if outcome.exit_code() == 0 {
            return true;
        }
        let code = outcome.json()["error"]["code"].clone();
        assert!(EXPECTED_ERRORS.iter().any(|expected| code == *expected), "{outcome:#?}");
        false
    }
}

/// Has commands run, of which some end badly.
struct Claimer<'a> {
    stampede: &'a Stampede<'a, 'a>,
    chance: Chance,
}

impl Claimer<'_> {
    fn claim(mut self) {
        let mut fates = Vec::new();
        while self.stampede.goes_on() {
            if fates.is_empty() {
                fates = FATES.iter().flat_map(|&(fate, times)| vec![fate; times]).collect();
                self.chance.shuffle(&mut fates);
            }
            if !self.chance.one_in(8) {
                // All who wait come for it at once.
                self.stampede.range.vms().has_spares_within(PATIENCE);
            }
            if let Some(fate) = fates.pop() {
                self.run(fate);
            }
        }
    }

    #[allow(clippy::disallowed_methods, reason = "any moment will do, and that is the point")]
    fn run(&mut self, fate: Fate) {
        let stampede = self.stampede;
        let (seconds, script) = match fate {
            Fate::OutOfTime => ("1", format!("{SCRIPT}; sleep 600")),
            _ => ("600", SCRIPT.to_owned()),
        };
        let begin = Instant::now();
        let run = ["run", BASE, "--json", "--timeout-seconds", seconds, "--", "sh", "-c", &script];
        let client = stampede.range.start(&run);
        let delay = self.chance.below(RUN);
        let wait = || std::thread::sleep(delay);
        match fate {
            Fate::LeftAlone | Fate::OutOfTime => {}
            Fate::Interrupted => {
                wait();
                client.signal(Signal::INT);
            }
            Fate::Terminated => {
                wait();
                client.signal(Signal::TERM);
            }
            Fate::Killed => {
                wait();
                client.kill_itself();
            }
            Fate::SupervisorKilled => {
                wait();
                stampede.kill(Role::Supervisor, &mut self.chance);
            }
            Fate::QemuKilled => {
                wait();
                stampede.kill(Role::Qemu, &mut self.chance);
            }
        }
        let outcome = client.outcome();
        stampede.count(format!("{fate:?}"));
        if outcome.was_killed() {
            assert_eq!(fate, Fate::Killed, "{outcome:#?}");
            return;
        }
        let is_early = match fate {
            Fate::Interrupted => outcome.ended_by(Signal::INT),
            Fate::Terminated => outcome.ended_by(Signal::TERM),
            _ => false,
        };
        if is_early {
            return;
        }
        self.check(fate, begin, &outcome);
    }

    /// Whoever was not killed says what happened, as it should.
    #[track_caller]
    fn check(&self, fate: Fate, begin: Instant, outcome: &Outcome) {
        let stampede = self.stampede;
        if outcome.stderr.contains("warning: a spare failed") {
            assert!(stampede.somebody_was_killed_since(begin), "{outcome:#?}");
            stampede.count("a spare failed");
        }
        let document = outcome.json();
        if let Some(code) = document["error"]["code"].as_str() {
            stampede.count(code);
            let is_expected = match fate {
                Fate::Interrupted => code == "interrupted" && outcome.exit_code() == 130,
                Fate::Terminated => code == "interrupted" && outcome.exit_code() == 143,
                _ => false,
            };
            let was_hit =
                EXPECTED_ERRORS.contains(&code) && stampede.somebody_was_killed_since(begin);
            assert!(is_expected || was_hit, "{fate:?}: {outcome:#?}");
            return;
        }
        stampede.count(document["vm_start"].as_str().unwrap());
        if document["timed_out"] == true {
            assert_eq!((fate, outcome.exit_code()), (Fate::OutOfTime, 124), "{outcome:#?}");
        } else {
            assert_eq!(outcome.exit_code(), 0, "{fate:?}: {outcome:#?}");
            assert_ne!(fate, Fate::OutOfTime, "{outcome:#?}");
        }
        let lines: Vec<_> =
            document["stdout"].as_str().unwrap().lines().map(str::to_owned).collect();
        // One that was out of time may not have come so far.
        let is_whole = lines.len() == LINES || fate == Fate::OutOfTime;
        let is_used = lines.iter().any(|line| line == "mark");
        assert!(is_whole && !is_used, "somebody was in this VM before: {document:#}");
        stampede.identities.lock().unwrap().extend(lines);
    }
}

/// Keeps spares, and does not let whoever does so live long.
struct Keeping<'a> {
    stampede: &'a Stampede<'a, 'a>,
    chance: Chance,
}

impl Keeping<'_> {
    #[allow(clippy::disallowed_methods, reason = "any moment will do, and that is the point")]
    fn keep(mut self) {
        let mut turns = Vec::new();
        while self.stampede.goes_on() {
            if turns.is_empty() {
                turns = TURNS.to_vec();
                self.chance.shuffle(&mut turns);
            }
            std::thread::sleep(self.chance.below(PEACE));
            if let Some(turn) = turns.pop() {
                self.stampede.count(format!("keeper: {turn:?}"));
                self.take(turn);
            }
        }
    }

    /// Those who say that they keep spares.
    fn keepers(&self) -> Vec<Process> {
        let range = self.stampede.range;
        let status = range.json(&["warm", "--status", "--json"]);
        let pids: Vec<_> =
            status["keepers"].as_array().unwrap().iter().map(|it| it["pid"].clone()).collect();
        let mut processes = range.vms().family();
        processes.retain(|process| pids.iter().any(|pid| *pid == process.pid()));
        processes
    }

    #[allow(clippy::disallowed_methods, reason = "any moment will do, and that is the point")]
    fn take(&mut self, turn: Turn) {
        let stampede = self.stampede;
        let count = if self.chance.one_in(2) { 2 } else { 4 };
        match turn {
            Turn::Killed => {
                for keeper in self.keepers() {
                    keeper.kill_if_there();
                    assert!(keeper.ends_within(NOTICED));
                }
                stampede.warm(count).ends_well();
            }
            Turn::Frozen => {
                let keepers = self.keepers();
                keepers.iter().for_each(Process::stop);
                // Where its own spares were hit, it has not come to that.
                if stampede.warm(count).ends_well() {
                    assert!(keepers.iter().all(|keeper| keeper.ends_within(NOTICED)));
                }
            }
            Turn::Stopped => {
                stampede.range.json(&["warm", "--stop", "--json"]);
                stampede.warm(count).ends_well();
            }
            Turn::Another => {
                stampede.warm(count).ends_well();
            }
            Turn::StarterKilled => {
                let warming = stampede.warm(count).0;
                std::thread::sleep(self.chance.below(WARM));
                warming.kill_itself();
                warming.outcome();
            }
            Turn::StarterInterrupted => {
                let warming = stampede.warm(count).0;
                std::thread::sleep(self.chance.below(WARM));
                warming.signal(Signal::INT);
                warming.outcome();
            }
        }
    }
}
