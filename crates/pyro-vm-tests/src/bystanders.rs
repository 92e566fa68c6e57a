//! VMs that nobody kills, and that must not notice what happens to others.

use std::collections::BTreeSet;

use crate::pyro::Running;
use crate::range::Range;

/// One that runs a command all the time, one that runs none, and one that was stopped.
#[derive(Debug)]
pub struct Bystanders {
    tick: String,
    idle: String,
    off: String,
    running: Running,
    /// The numbers of their processes.
    pids: Vec<i32>,
}

impl Bystanders {
    pub fn begin(range: &Range<'_>) -> Self {
        let [tick, idle, off] =
            [(); 3].map(|()| range.create(&["--start", "--ttl-seconds", "3600"]));
        for id in [&tick, &idle, &off] {
            let fill = format!("seq 500000 > /root/file; echo {id} >> /root/file; sync");
            range.json(&["vm", "exec", "--json", id, "--", "sh", "-c", &fill]);
        }
        range.json(&["vm", "stop", "--json", &off]);
        let script = "i=0; until test -e /root/end; do i=$((i+1)); echo $i; sleep 0.2; done; \
            seq $i | md5sum >&2; echo end";
        let exec = ["vm", "exec", "--timeout-seconds", "3600", &tick, "--", "sh", "-c", script];
        let running = range.start(&exec);
        running.wait_for_stdout("1\n");
        let pids = pids(range, [&tick, &idle, &off]);
        Self { tick, idle, off, running, pids }
    }

    pub fn ids(&self) -> BTreeSet<String> {
        [&self.tick, &self.idle, &self.off].into_iter().cloned().collect()
    }

    /// The numbers of their processes, as they have been all the time.
    pub fn pids(&self) -> &[i32] {
        &self.pids
    }

    /// Fails if one of them noticed anything, and deletes them.
    pub fn assert_unharmed(self, range: &Range<'_>) {
        let ids = [&self.tick, &self.idle, &self.off];
        assert_eq!(pids(range, ids), self.pids, "others than before");
        range.json(&["vm", "exec", "--json", &self.tick, "--", "touch", "/root/end"]);
        let ids = self.ids();
        let outcome = self.running.outcome();
        let ticks: Vec<_> = outcome.success().lines().collect();
        let (last, ticks) = ticks.split_last().unwrap();
        assert_eq!(*last, "end");
        let expected: Vec<_> = (1..=ticks.len()).map(|number| number.to_string()).collect();
        assert_eq!(ticks, expected);
        range.json(&["vm", "start", "--json", &self.off]);
        for id in &ids {
            // What was written before all of it.
            let script = "head -n 500000 /root/file | cmp - /root/expected && tail -n 1 /root/file";
            let script = format!("seq 500000 > /root/expected; {script}");
            let found = range.json(&["vm", "exec", "--json", id, "--", "sh", "-c", &script]);
            assert_eq!(found["stdout"], format!("{id}\n"), "{found:#}");
            range.delete(id);
        }
    }
}

fn pids(range: &Range<'_>, ids: [&String; 3]) -> Vec<i32> {
    let processes = ids.into_iter().flat_map(|id| range.processes_of(id));
    processes.map(|process| process.pid()).collect()
}
