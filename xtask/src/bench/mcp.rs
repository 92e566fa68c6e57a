//! What MCP adds to a run: `vm_run` of a real server beside the same run through the core in one process.

use std::process::Command;

use serde_json::{Value, json};

use super::spares::Keeper;
use super::statistics::{median, minimum};
use super::{CACHE, Pyro};
use crate::workspace;

const ENVIRONMENT: &str = "debian:12";

/// The least a command can do, so that what is timed is what is around it.
const COMMAND: &str = "true";

/// One for the run that is measured, and one that is made meanwhile.
const SPARES: u32 = 2;

pub(super) fn measure(pyro: &Pyro, runs: u32, in_spares: bool) -> Result<(String, Value), String> {
    pyro.pull(CACHE, ENVIRONMENT)?;
    let mut example: Command = pyro.example("vm_run_overhead");
    example.arg(&pyro.executable).args([ENVIRONMENT, &runs.to_string(), COMMAND]);
    let keeper = in_spares.then(|| Keeper::start(pyro, SPARES)).transpose()?;
    if keeper.is_some() {
        example.arg("spares");
    }
    let text = workspace::output(&mut example)?;
    keeper.map_or(Ok(()), Keeper::stop)?;
    let samples: Value = serde_json::from_str(&text)
        .map_err(|error| format!("the example prints no JSON: {error}"))?;
    let (core, mcp) = (values(&samples["core"]), values(&samples["mcp"]));
    if core.len() != runs as usize || mcp.len() != core.len() {
        return Err(format!("the example prints something else: {samples}"));
    }
    Ok((table(&core, &mcp), json!({ "core_ms": core, "mcp_ms": mcp })))
}

fn values(samples: &Value) -> Vec<f64> {
    samples.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

fn table(core: &[f64], mcp: &[f64]) -> String {
    // Pair by pair, because noise meets both of a pair alike.
    let added: Vec<_> = mcp.iter().zip(core).map(|(mcp, core)| mcp - core).collect();
    let mut text = format!("{:<46}{:>10}{:>10}", "ms", "median", "minimum");
    let rows = [
        ("a run through the core, in this process", core),
        ("the same as `vm_run` over standard input", mcp),
    ];
    for (name, samples) in rows {
        text += &format!("\n{name:<46}{:>10.1}{:>10.1}", median(samples), minimum(samples));
    }
    text + &format!("\n{:<46}{:>10.1}", "difference of a pair", median(&added))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_compared_before_medians_are_taken() {
        let table = table(&[100.0, 200.0, 300.0], &[301.0, 103.0, 205.0]);
        assert!(table.ends_with("      -95.0"), "{table}");
    }
}
