//! `pyro warm`.

use std::process::ExitCode;

use pyro_core::{
    KeepRequest, KeeperInfo, MemoryMib, PyroError, SpareCount, SpareKind, SpareNetwork, SpareTime,
    StartedKeeper, VcpuCount, WarmStatus, parse_environment,
};

use super::Ended;
use crate::arguments::WarmArguments;
use crate::progress::Display;
use crate::terminal;

pub(crate) fn execute(arguments: &WarmArguments) -> ExitCode {
    let output = arguments.output;
    if arguments.status {
        let status = super::pyro(None).and_then(|pyro| super::block_on(pyro.warm_status()));
        return super::show(output, status, |status| terminal::lines(14, &status_text(status)));
    }
    if arguments.stop {
        let stopped = super::pyro(None).and_then(|pyro| super::block_on(pyro.stop_keepers())?);
        return super::show(output, stopped, |stopped| match stopped.count {
            0 => "nobody keeps spares\n".to_owned(),
            1 => "1 process has ended, and its spares with it\n".to_owned(),
            count => format!("{count} processes have ended, and their spares with them\n"),
        });
    }
    match warm(arguments) {
        Ok(Ended::ByItself(kept)) => super::show(output, kept, started_text),
        Ok(Ended::BySignal(signal)) => super::ended_by_signal(signal, output.json),
        Err(failure) => {
            terminal::fail(&failure, output.json);
            ExitCode::FAILURE
        }
    }
}

type Kept = Result<StartedKeeper, PyroError>;

fn warm(arguments: &WarmArguments) -> Result<Ended<Kept>, PyroError> {
    let environment = arguments.environment.as_deref().unwrap_or_default();
    let kind = SpareKind {
        environment: parse_environment(environment)?,
        vcpu_count: VcpuCount::new(arguments.vcpu_count)?,
        memory: MemoryMib::new(arguments.mem_mib)?,
        network: if arguments.network { SpareNetwork::Present } else { SpareNetwork::Absent },
    };
    let time = arguments.time.map_or(Ok(SpareTime::DEFAULT), SpareTime::new)?;
    let request = KeepRequest { kind, count: SpareCount::new(arguments.count)?, time };
    let pyro = super::pyro(None)?;
    let display = Display::new(arguments.output);
    let step = |text: &str| display.show_text(text);
    let work = async { pyro.start_keeper(&request, &step).await };
    let ended = super::block_on(super::until_interrupted(&pyro, work));
    display.clear();
    ended
}

fn started_text(started: &StartedKeeper) -> String {
    let keeper = &started.keeper;
    let instead = match started.replaced_keeper_ids.len() {
        0 => "",
        _ => ", instead of those there were",
    };
    let (spares, time) = (spares(keeper.count), minutes("", whole_minutes(keeper)));
    format!("{spares} of {} for {time}{instead}\n", keeper.environment)
}

fn status_text(status: &WarmStatus) -> String {
    let mut text = String::new();
    for keeper in &status.keepers {
        text += &format!(
            "{}  keeps {} of {}, {}, for {} (process {})\n",
            keeper.keeper_id,
            spares(keeper.count),
            keeper.environment,
            shape(keeper.vcpu_count, keeper.mem_mib, keeper.network_enabled),
            minutes("more ", whole_minutes(keeper)),
            keeper.pid
        );
    }
    for spare in &status.spares {
        text += &format!(
            "{}  {}, {}: {} MiB for itself\n",
            spare.id,
            spare.environment,
            shape(spare.vcpu_count, spare.mem_mib, spare.network_enabled),
            spare.private_bytes >> 20
        );
    }
    if text.is_empty() {
        text += "no spares; `pyro warm ENVIRONMENT` makes some\n";
    }
    text
}

/// By which those of one environment are told apart.
fn shape(vcpu_count: u8, mem_mib: u32, network_enabled: bool) -> String {
    let network = if network_enabled { ", network" } else { "" };
    format!("{vcpu_count} vCPU, {mem_mib} MiB{network}")
}

fn spares(count: u8) -> String {
    if count == 1 { "1 spare".to_owned() } else { format!("{count} spares") }
}

/// `more` stands before the noun, with a space, or is nothing.
fn minutes(more: &str, count: u64) -> String {
    format!("{count} {more}{}", if count == 1 { "minute" } else { "minutes" })
}

fn whole_minutes(keeper: &KeeperInfo) -> u64 {
    keeper.time_left().as_secs().div_ceil(60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_minute_is_not_told_as_many() {
        assert_eq!(minutes("", 1), "1 minute");
        assert_eq!(minutes("more ", 30), "30 more minutes");
    }
}
