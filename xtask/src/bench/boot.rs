//! Cold boots through the command line, split by phase.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use super::statistics::{median, minimum};
use super::{CACHE, ENVIRONMENTS, Pyro};

/// What every VM runs: the least a command can do, so that what is timed is the VM.
const COMMAND: &str = "true";

/// Milliseconds by name, in the order in which they pass.
type Phases = Vec<(String, f64)>;

/// Boots each environment `runs` times, taking turns, so that noise meets all of them alike.
pub(super) fn measure(pyro: &Pyro, runs: u32) -> Result<(String, Value), String> {
    for environment in ENVIRONMENTS {
        pyro.pull(CACHE, environment)?;
        // Page cache and KVM probe are warm from the second run on; the first is not counted.
        boot(pyro, environment)?;
    }
    let mut samples: BTreeMap<&str, Vec<Phases>> = BTreeMap::new();
    for run in 1..=runs {
        for environment in ENVIRONMENTS {
            let phases = boot(pyro, environment)?;
            let wall = phases.iter().find(|(name, _)| name == WALL).map_or(0.0, |(_, ms)| *ms);
            println!("    {run}/{runs} {environment}: {wall:.0} ms");
            samples.entry(environment).or_default().push(phases);
        }
    }
    Ok((table(&samples), json(&samples)))
}

const WALL: &str = "whole run";

fn boot(pyro: &Pyro, environment: &str) -> Result<Phases, String> {
    let started = Instant::now();
    let output = pyro
        .command(CACHE)
        .env("PYRO_START", "boot")
        .args(["run", "--verbose", "--json", "--timeout-seconds=60", environment, "--", COMMAND])
        .output()
        .map_err(|error| format!("cannot start pyro: {error}"))?;
    let wall_ms = started.elapsed().as_secs_f64() * 1e3;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let stdout = String::from_utf8_lossy(&output.stdout);
        return Err(format!("a run of {environment} failed: {stdout}{stderr}"));
    }
    let outcome: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("pyro run prints no JSON: {error}"))?;
    let command_ms = outcome["duration_ms"].as_f64().unwrap_or_default();
    phases(wall_ms, command_ms, &stderr).ok_or_else(|| format!("no launch report in:\n{stderr}"))
}

/// Splits a run by what `pyro run --verbose` reports: times since the launch on the host, then,
/// after a line that says so, times since the kernel's start in the guest.
fn phases(wall_ms: f64, command_ms: f64, report: &str) -> Option<Phases> {
    let mut host = Phases::new();
    let mut guest = Phases::new();
    let mut in_guest = false;
    for line in report.lines() {
        if line.contains("in the guest, kernel") {
            in_guest = true;
        } else if let Some((since_ms, name)) = line.trim().split_once(" ms  ") {
            let since_ms: f64 = since_ms.trim().parse().ok()?;
            let list = if in_guest { &mut guest } else { &mut host };
            list.push((name.to_owned(), since_ms));
        }
    }
    let launch_ms = host.last()?.1;
    let mut phases = vec![(WALL.to_owned(), wall_ms)];
    for (name, ms) in durations(&host) {
        let is_boot = name == "boot";
        phases.push((format!("  {name}"), ms));
        if is_boot {
            let guest_ms = guest.last().map_or(0.0, |(_, ms)| *ms);
            phases.push(("    before the kernel's clock starts".to_owned(), ms - guest_ms));
            phases.extend(durations(&guest).map(|(name, ms)| (format!("    guest: {name}"), ms)));
        }
    }
    phases.push((format!("  command `{COMMAND}`"), command_ms));
    phases.push((
        "  rest: start of pyro, end of the VM".to_owned(),
        wall_ms - launch_ms - command_ms,
    ));
    Some(phases)
}

/// Turns points in time into the durations between them.
fn durations(points: &Phases) -> impl Iterator<Item = (&str, f64)> {
    let starts = std::iter::once(0.0).chain(points.iter().map(|(_, ms)| *ms));
    points.iter().zip(starts).map(|((name, end), start)| (name.as_str(), end - start))
}

fn table(samples: &BTreeMap<&str, Vec<Phases>>) -> String {
    let mut text = format!("{:<38}", "ms, median / minimum");
    for environment in ENVIRONMENTS {
        text += &format!("{environment:>18}");
    }
    let names = samples.values().next().and_then(|runs| runs.first()).into_iter().flatten();
    for (name, _) in names {
        text += &format!("\n{name:<38}");
        for environment in ENVIRONMENTS {
            let values = values(&samples[environment], name);
            let cell = format!("{:.0} / {:.0}", median(&values), minimum(&values));
            text += &format!("{cell:>18}");
        }
    }
    text
}

fn json(samples: &BTreeMap<&str, Vec<Phases>>) -> Value {
    let mut all = serde_json::Map::new();
    for (environment, runs) in samples {
        let names = runs.first().into_iter().flatten().map(|(name, _)| name);
        let phases = names.map(|name| (name.trim().to_owned(), values(runs, name).into()));
        all.insert((*environment).to_owned(), Value::Object(phases.collect()));
    }
    Value::Object(all)
}

fn values(runs: &[Phases], name: &str) -> Vec<f64> {
    let of_run = |run: &Phases| run.iter().find(|(found, _)| found == name).map(|(_, ms)| *ms);
    runs.iter().filter_map(of_run).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "\
pyro: booting a VM
pyro: vm a63d808ce169 is up (tcg)
      46 ms  disks
    2855 ms  boot
    2965 ms  configure
  in the guest, kernel 6.1.0-56-cloud-amd64:
    1233 ms  kernel
    1801 ms  modules
";

    #[test]
    fn a_report_is_split_into_durations_that_add_up() {
        let phases = phases(3100.0, 35.0, REPORT).unwrap();
        let shown: Vec<_> =
            phases.iter().map(|(name, ms)| format!("{} {ms:.0}", name.trim())).collect();
        assert_eq!(
            shown,
            [
                "whole run 3100",
                "disks 46",
                "boot 2809",
                "before the kernel's clock starts 1008",
                "guest: kernel 1233",
                "guest: modules 568",
                "configure 110",
                "command `true` 35",
                "rest: start of pyro, end of the VM 100",
            ]
        );
    }

    #[test]
    fn a_run_without_a_report_is_noticed() {
        assert_eq!(phases(1.0, 1.0, "pyro: booting a VM\n"), None);
    }
}
