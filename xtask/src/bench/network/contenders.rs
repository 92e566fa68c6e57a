//! What is measured: the network of pyro, and those that one would give to a QEMU without privileges.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::server::Server;
use super::{ENVIRONMENT, NETWORK};
use crate::bench::contest::Contender;
use crate::bench::plain_qemu::{self, PlainQemu};
use crate::bench::process::{self, Ended, Input, Running};
use crate::bench::series::{Group, Maker, Series, Subject, Unit};
use crate::bench::{CACHE, Pyro};

/// Everything that contenders need.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) pyro: &'a Pyro,
    pub(super) plain_qemu: &'a PlainQemu,
    pub(super) passt_socket: PathBuf,
    /// The command that measures, in a VM of pyro's.
    pub(super) client: String,
    pub(super) server: &'a Server,
}

/// All contenders, in the order of the table.
pub(super) fn all<'a>(stage: &'a Stage<'a>) -> [Contender<'a>; 3] {
    let pyro = || {
        let mut command = stage.pyro.command(CACHE);
        // Which the others boot.
        command.env("PYRO_GUEST_KERNEL", "debian");
        let rule = format!("--allow-cidr=127.0.0.1:{}", stage.server.port);
        command.args(["run", "--network", &rule, "--timeout-seconds=300", ENVIRONMENT, "--"]);
        command.args(["sh", "-c", &stage.client]);
        command
    };
    let slirp = || {
        let mut command = stage.plain_qemu.command();
        command.args(["-netdev", "user,id=network", "-device"]);
        command.arg("virtio-net-device,netdev=network");
        command
    };
    let passt = || {
        let mut command = stage.plain_qemu.command();
        let path = stage.passt_socket.display();
        command.arg("-netdev");
        command.arg(format!("stream,id=network,server=off,addr.type=unix,addr.path={path}"));
        // Packets as large as passt takes, like pyro's.
        command.args(["-device", "virtio-net-device,netdev=network,host_mtu=65520"]);
        command
    };
    [
        contender(stage.server, ("pyro", Maker::Pyro), &pyro(), move || process::time(&mut pyro())),
        contender(stage.server, ("slirp", Maker::Other), &slirp(), move || {
            plain_qemu::run(&mut slirp())
        }),
        contender(stage.server, ("passt", Maker::Other), &passt(), move || {
            let passt_itself = start_passt(&stage.passt_socket)?;
            let ended = plain_qemu::run(&mut passt())?;
            // It serves one machine, and ends with it.
            passt_itself.finish()?;
            fs_err::remove_file(&stage.passt_socket).map_err(|error| error.to_string())?;
            Ok(ended)
        }),
    ]
}

fn start_passt(socket: &Path) -> Result<Running, String> {
    let mut command = Command::new("passt");
    let (address, length) =
        NETWORK.address.split_once('/').ok_or("an address without the length of its network")?;
    command.args(["--foreground", "--stderr", "--one-off", "--socket"]).arg(socket);
    command.args(["--address", address, "--netmask", length, "--gateway", NETWORK.gateway]);
    command.args(["--ipv4-only", "--tcp-ports", "none", "--udp-ports", "none"]);
    // A socket that is there would be taken by somebody else.
    fs_err::remove_file(socket).ok();
    let mut passt = Running::start(&mut command, Input::Nothing)?;
    passt.wait_for("socket bound at")?;
    Ok(passt)
}

fn contender<'a>(
    server: &'a Server,
    (name, maker): (&str, Maker),
    command: &Command,
    run: impl Fn() -> Result<Ended, String> + 'a,
) -> Contender<'a> {
    let series = |number: &str, group, unit| {
        let id = format!("{name}-{number}");
        let subject = Subject { id: &id, maker, label: name };
        Series::new(subject, group, unit, command)
    };
    Contender {
        series: vec![
            series("download", Group::Download, Unit::MegabytesPerSecond),
            series("upload", Group::Upload, Unit::MegabytesPerSecond),
            series("connections", Group::Connections, Unit::ConnectionsPerSecond),
            series("round-trip", Group::RoundTrip, Unit::Milliseconds),
            series("busy-in-download", Group::BusyInDownload, Unit::Percent),
            series("busy-in-upload", Group::BusyInUpload, Unit::Percent),
        ],
        sample: Box::new(move || {
            let output = run()?.output;
            // What a guest did that failed on its way is not to be taken for the next one's.
            let numbers = server.numbers();
            if !output.contains("done") {
                return Err(format!("the measurement failed:\n{output}"));
            }
            numbers
        }),
    }
}
