//! A process that pulls one environment and says what it does, for tests that
//! kill it, run two of it at once, or run it as another user:
//! `pyro-test-puller STORE ENVIRONMENT MODE TOOL_PATH PROXY [MIRROR…]`, with
//! `-` for no proxy.
#![allow(clippy::print_stdout, reason = "its output is what the tests read")]

use std::process::ExitCode;

use pyro_environments::{ArchiveSettings, PullMode, Store, pull};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, store, environment, mode, tool_path, proxy, mirrors @ ..] = &arguments[..] else {
        println!("error: five arguments or more are needed");
        return ExitCode::FAILURE;
    };
    let mode = if mode == "refresh" { PullMode::Refresh } else { PullMode::IfMissing };
    let proxy = (proxy != "-").then(|| proxy.clone());
    let archive = ArchiveSettings::new(mirrors.to_vec(), proxy, tool_path.into())
        .expect("the tests pass settings that can be used");
    let environment = environment.parse().expect("the tests pass names of the catalog");
    let report = |event| println!("{event:?}");
    match pull(&Store::at(store), environment, &archive, mode, &report).await {
        Ok(installed) => {
            println!("installed {}", installed.image_digest);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("error {error:?}");
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
