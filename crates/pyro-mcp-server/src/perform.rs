//! Has the core do what a call asks for.

use std::io::Cursor;

use pyro_core::{Progress, Pyro, PyroError, Streams};

use crate::answer::Answer;
use crate::call::{Call, Input};
use crate::pins::Pins;
use crate::progress::Narrator;
use crate::turns::Turns;

/// Carries `call` out. When the future is dropped, so is everything it does: a run's VM, or the command in a VM that
/// goes on.
pub(crate) async fn perform(
    pyro: &Pyro,
    pins: &Pins,
    turns: &Turns,
    narrator: &Narrator,
    call: Call,
) -> Result<Answer, PyroError> {
    let report = |progress: Progress| narrator.report(progress);
    if let Some(id) = call.vm_id() {
        pins.check_existing(&pyro.status_vm(id)?)?;
    }
    match call {
        Call::Run(request, input) => {
            let _turn = turns.take(|step| narrator.say(step)).await?;
            let report = |progress: Progress| {
                let is_up = matches!(progress, Progress::VmReady { .. });
                narrator.report(progress);
                if is_up {
                    narrator.say(RUNNING);
                }
            };
            let outcome = pyro.run_in_vm(*request, streams(input), &report).await?;
            Ok(Answer::of_run(&outcome))
        }
        Call::ListEnvironments => {
            pyro.list_environments().map(|list| Answer::of_environments(&list))
        }
        Call::Create(request) => {
            let created = pyro.create_vm(*request, &report).await;
            created.map(|vm| Answer::of_vm(&vm)).map_err(|failure| pins.explain(failure))
        }
        Call::Start(id) => pyro.start_vm(&id, &report).await.map(|vm| Answer::of_vm(&vm)),
        Call::Exec(id, request, input) => {
            narrator.say(RUNNING);
            let outcome = pyro.exec_vm(&id, *request, streams(input)).await?;
            Ok(Answer::of_exec(&outcome))
        }
        Call::Logs(id, None) => pyro.list_runs(&id).map(Answer::of_runs),
        Call::Logs(id, Some(request)) => {
            pyro.read_log(&id, &request).map(|part| Answer::of_log(&part))
        }
        Call::List => {
            let mut list = pyro.list_vms().await?;
            list.vms.retain(|vm| pins.check_existing(vm).is_ok());
            Ok(Answer::of_vms(&list))
        }
        Call::Status(id) => pyro.status_vm(&id).map(|vm| Answer::of_vm(&vm)),
        Call::NetworkInfo(id) => pyro.network_info_vm(&id).map(|info| Answer::of_network(&info)),
        Call::Stop(id) => pyro.stop_vm(&id).await.map(|vm| Answer::of_vm(&vm)),
        Call::Delete(id) => pyro.delete_vm(&id).await.map(|deleted| Answer::of_deletion(&deleted)),
        Call::ReapExpired => pyro.reap_expired().await.map(|report| Answer::of_reaping(&report)),
    }
}

const RUNNING: &str = "the command is running";

/// The output is in the outcome; nobody watches it come.
fn streams(Input(text): Input) -> Streams<'static> {
    Streams {
        stdin: text.map(|text| Box::new(Cursor::new(text.into_bytes())) as _),
        ..Streams::default()
    }
}
