//! `cargo xtask bench network`: what crosses a VM's network, and beside it QEMU's own network and passt.
//!
//! The same program in the same image talks to the same server on the host's loopback, from machines with the same
//! kernel, CPU and memory. They differ in what is behind their network device, and in how they are started, which is
//! not measured.

mod contenders;
mod server;
mod virtual_cpu;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use serde_json::json;

use self::contenders::Stage;
use self::server::Server;
use super::contest::{self, Place, Results, Rounds};
use super::plain_qemu::{Guest, Network, PlainQemu};
use super::series::{Group, Series};
use super::table::{self, Ratio, Target};
use super::{CACHE, Pyro};

/// It has Python.
const ENVIRONMENT: &str = "debian:12";

/// What contenders other than pyro need, below the target directory.
const PLACE: &str = "bench-network-place";

const GROUPS: [Group; 6] = [
    Group::Download,
    Group::Upload,
    Group::BusyInDownload,
    Group::BusyInUpload,
    Group::Connections,
    Group::RoundTrip,
];

/// The program in the guest.
const CLIENT: &str = include_str!("client.py");

/// What both of the others have: QEMU's network has these addresses by itself, passt is told to.
const NETWORK: Network = Network { address: "10.0.2.15/24", gateway: "10.0.2.2" };

/// How much is measured.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    rounds: Rounds,
    /// Sent in each direction.
    transfer_mib: u32,
    connections: u32,
    round_trips: u32,
}

impl Extent {
    pub(super) fn full(rounds: u32) -> Self {
        let rounds = Rounds::after_one(rounds);
        Self { rounds, transfer_mib: 256, connections: 50, round_trips: 200 }
    }

    /// Everything once, to see that it works. The numbers mean nothing.
    pub(super) fn quick() -> Self {
        Self { rounds: Rounds::ONE, transfer_mib: 2, connections: 5, round_trips: 5 }
    }
}

/// Measures everything, and leaves nothing behind, also when it is interrupted.
pub(super) fn measure(pyro: &Pyro, extent: &Extent) -> Result<Results, String> {
    contest::until_interrupted(|interrupted| prepare_and_measure(pyro, extent, interrupted))
}

fn prepare_and_measure(
    pyro: &Pyro,
    extent: &Extent,
    interrupted: &AtomicBool,
) -> Result<Results, String> {
    let pulled = pyro.pull(CACHE, ENVIRONMENT)?;
    let file = |key: &str| {
        pulled[key].as_str().map(PathBuf::from).ok_or_else(|| format!("`{key}` is no path"))
    };
    let place = Place::prepare(pyro.target.join(PLACE))?;
    let server = Server::start()?;
    let accelerator = pyro.accelerator()?;
    let client = |host: &str| {
        let Extent { transfer_mib, connections, round_trips, .. } = extent;
        let port = server.port;
        format!("python3 -c '{CLIENT}' {host} {port} {transfer_mib} {connections} {round_trips}")
    };
    let guest = Guest {
        accelerator,
        kernel: file("kernel_image")?,
        image: file("rootfs_image")?,
        command: client(NETWORK.gateway),
        network: Some(NETWORK),
    };
    let plain_qemu = PlainQemu::prepare(guest, &place.path)?;
    let stage = Stage {
        pyro,
        plain_qemu: &plain_qemu,
        passt_socket: passt_socket(),
        client: client("host.pyro.internal"),
        server: &server,
    };
    let contenders = Vec::from(contenders::all(&stage));
    let series = contest::measure_in_turn(contenders, extent.rounds, interrupted)?;
    let results = results(&series, extent, accelerator);
    place.remove()?;
    Ok(results)
}

/// The passt of Debian 12 ends without a word where its socket is in any directory but this.
fn passt_socket() -> PathBuf {
    PathBuf::from(format!("/tmp/pyro-bench-{}.socket", std::process::id()))
}

/// How pyro's network compares to the better of the others, in each direction.
fn ratios(series: &[Series]) -> Vec<Ratio> {
    let ratio = |name, direction: &str| {
        let median = |maker: &str| table::median(series, &format!("{maker}-{direction}"));
        let value = median("pyro") / median("slirp").max(median("passt"));
        Ratio { name, value, target: Target::AtLeast(1.5) }
    };
    vec![
        ratio("host to guest: pyro / better of the others", "download"),
        ratio("guest to host: pyro / better of the others", "upload"),
    ]
}

fn results(series: &[Series], extent: &Extent, accelerator: &str) -> Results {
    let facts = json!({
        "accelerator": accelerator,
        "environment": ENVIRONMENT,
        "rounds": extent.rounds.counted,
        "transfer_mib": extent.transfer_mib,
    });
    Results::of("What crosses a network", &GROUPS, series, &ratios(series), facts)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::bench::series::{Maker, Subject, Unit};

    #[test]
    fn the_better_of_the_others_is_what_counts() {
        let series = |id: &str, rate| {
            let subject = Subject { id, maker: Maker::Pyro, label: id };
            let command = Command::new("true");
            let unit = Unit::MegabytesPerSecond;
            let mut series = Series::new(subject, Group::Download, unit, &command);
            series.samples = vec![rate];
            series
        };
        let all = [
            series("pyro-download", 90.0),
            series("slirp-download", 60.0),
            series("passt-download", 30.0),
            series("pyro-upload", 50.0),
            series("slirp-upload", 40.0),
            series("passt-upload", 50.0),
        ];
        let ratios = ratios(&all);
        assert!(ratios[0].is_met() && !ratios[1].is_met(), "{ratios:?}");
    }

    #[test]
    fn the_program_can_be_a_word_of_a_shell() {
        assert!(!CLIENT.contains('\''), "{CLIENT}");
    }
}
