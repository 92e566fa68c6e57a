//! The life of one VM, step by step, with what each takes.

use std::cell::RefCell;
use std::io;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyro_core::{
    Accelerator, Cleanup, CommandText, CreateRequest, ErrorKind, ExecRequest, HostCompat,
    MemoryMib, Metadata, Network, Progress, Pyro, PyroError, StartKind, Streams, TimeToLive,
    VcpuCount, VmId, VmInfo, VmRequest, parse_environment,
};
use serde::Serialize;
use serde_json::Value;

use super::super::{Ended, ended_by_signal};
use super::probe::Finding;
use crate::arguments::OutputArguments;
use crate::demo_arguments::WalkArguments;
use crate::folding::whole;
use crate::progress::Display;
use crate::terminal::{self, BOLD, GREEN, YELLOW, escaped};

/// What is executed: something that tells this machine from the host.
const COMMAND: &str = r#"echo "hello from $(uname -n), $(uname -sr)""#;

/// How long the VM lives at most, should this process be killed.
const TIME_TO_LIVE_SECONDS: i64 = 300;

/// All that was done, as one document.
#[derive(Debug, Serialize)]
struct Report {
    vm_id: String,
    environment: String,
    environment_version: String,
    accelerator: Option<Accelerator>,
    network_enabled: bool,
    steps: Vec<Step>,
    network_probe: Option<Finding>,
    cleanup: Cleanup,
    duration_ms: u64,
}

/// One step, and what the command for it prints with `--json`.
#[derive(Debug, Serialize)]
struct Step {
    name: &'static str,
    duration_ms: u64,
    outcome: Value,
}

pub(super) fn execute(arguments: &WalkArguments) -> ExitCode {
    let output = arguments.output;
    let screen = Screen { output, printed: RefCell::new(Ok(())) };
    let ended = walk_until_interrupted(arguments, &screen);
    let printed = screen.printed.into_inner();
    match ended {
        Ok(Ended::ByItself(Ok(report))) => {
            let printed = if output.json { terminal::print_json(&report) } else { printed };
            terminal::exit_code(printed, ExitCode::SUCCESS, 1)
        }
        Ok(Ended::BySignal(signal)) => ended_by_signal(signal, output.json),
        // Whoever read what was printed has gone.
        Ok(Ended::ByItself(Err(_))) if printed.is_err() => {
            terminal::exit_code(printed, ExitCode::FAILURE, 1)
        }
        Ok(Ended::ByItself(Err(failure))) | Err(failure) => {
            terminal::fail(&failure, output.json);
            ExitCode::FAILURE
        }
    }
}

fn walk_until_interrupted(
    arguments: &WalkArguments,
    screen: &Screen,
) -> Result<Ended<Result<Report, PyroError>>, PyroError> {
    let request = CreateRequest {
        vm: VmRequest {
            environment: parse_environment(&arguments.environment)?,
            vcpu_count: VcpuCount::DEFAULT,
            memory: MemoryMib::DEFAULT,
            time_to_live: TimeToLive::from_seconds(TIME_TO_LIVE_SECONDS)?,
            network: Network::new(&arguments.network.options())?,
        },
        metadata: Metadata::new([("made_by".to_owned(), "pyro demo".to_owned())].into())?,
        host_compat: HostCompat::Forbidden,
    };
    let pyro = super::super::pyro(Some(&arguments.archive))?;
    let walk = Walk { pyro: &pyro, screen, made: RefCell::new(None), steps: RefCell::default() };
    super::super::block_on(async {
        let ended = super::super::until_interrupted(&pyro, walk.walk(request, arguments)).await;
        let Some(id) = walk.made.take() else { return ended };
        let Err(failure) = pyro.delete_vm(&id).await else { return ended };
        if matches!(failure.kind, ErrorKind::UnknownVm | ErrorKind::VmExpired) {
            return ended;
        }
        let hint = format!("it may still be there: `pyro vm delete {id}`", id = id.as_str());
        match ended {
            // Why it came to this matters more.
            Ended::ByItself(Err(reason)) => Ended::ByItself(Err(reason.hint(hint))),
            Ended::ByItself(Ok(_)) | Ended::BySignal(_) => Ended::ByItself(Err(failure.hint(hint))),
        }
    })
}

struct Walk<'a> {
    pyro: &'a Pyro,
    screen: &'a Screen,
    /// The VM, from when there is one to when there is none any more.
    made: RefCell<Option<VmId>>,
    steps: RefCell<Vec<Step>>,
}

impl Walk<'_> {
    async fn walk(
        &self,
        request: CreateRequest,
        arguments: &WalkArguments,
    ) -> Result<Report, PyroError> {
        let begin = Instant::now();
        let pyro = self.pyro;
        let (info, id) = self.create(request).await?;
        self.start(&id).await?;
        self.exec(&id).await?;
        let network_probe =
            if info.network_enabled { Some(self.probe(&id, arguments).await?) } else { None };
        self.step(
            "stop",
            async |_| pyro.stop_vm(&id).await,
            |_| vec!["the guest is off; what it wrote is kept for the next start".to_owned()],
        )
        .await?;
        let cleanup = self
            .step(
                "delete",
                async |_| pyro.delete_vm(&id).await,
                |_| vec!["process, disk and directory of the VM are gone".to_owned()],
            )
            .await?;
        self.made.take();
        let duration = begin.elapsed();
        self.screen.print(&format!(
            "\n{GREEN}done{GREEN:#} in {}; the same by hand: `pyro vm --help`\n",
            time(duration)
        ));
        Ok(Report {
            vm_id: info.vm_id,
            environment: info.environment,
            environment_version: info.environment_version,
            accelerator: info.accelerator,
            network_enabled: info.network_enabled,
            steps: self.steps.take(),
            network_probe,
            cleanup,
            duration_ms: milliseconds(duration),
        })
    }

    async fn create(&self, request: CreateRequest) -> Result<(VmInfo, VmId), PyroError> {
        let info = self
            .step(
                "create",
                async |show| {
                    let info = self.pyro.create_vm(request, show).await?;
                    self.made.replace(Some(VmId::new(&info.vm_id)?));
                    Ok(info)
                },
                |info| {
                    let network = if info.network_enabled { "a network" } else { "no network" };
                    vec![
                        format!("VM {} of {}, and its supervisor", info.vm_id, info.environment),
                        format!(
                            "vCPUs: {}, memory: {} MiB, {network}",
                            info.vcpu_count, info.mem_mib
                        ),
                    ]
                },
            )
            .await?;
        let id = VmId::new(&info.vm_id)?;
        Ok((info, id))
    }

    async fn start(&self, id: &VmId) -> Result<(), PyroError> {
        let how = Mutex::new(None);
        let start = async |show: Show<'_>| {
            let watch = |progress: Progress| {
                if let Progress::VmReady { report, .. } = &progress {
                    let mut how = how.lock().unwrap_or_else(PoisonError::into_inner);
                    *how = Some(report.start.clone());
                }
                show(progress);
            };
            self.pyro.start_vm(id, &watch).await
        };
        let text = |info: &VmInfo| {
            let accelerator = info.accelerator.map_or("-", |accelerator| accelerator.name());
            let runs = format!("its machine runs ({accelerator})");
            match how.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                Some(StartKind::Restored | StartKind::Spare) => vec![
                    format!("{runs}, restored from a template"),
                    "(the same machine, booted once on this host and frozen)".to_owned(),
                ],
                Some(StartKind::ColdBoot | StartKind::ColdBootInstead { .. }) => {
                    vec![format!("{runs}, booted")]
                }
                None => vec![runs],
            }
        };
        self.step("start", start, text).await.map(drop)
    }

    async fn exec(&self, id: &VmId) -> Result<(), PyroError> {
        let request = ExecRequest::new(CommandText::new(COMMAND)?);
        let exec = async |_: Show<'_>| self.pyro.exec_vm(id, request, Streams::default()).await;
        let outcome = self
            .step("exec", exec, |outcome| {
                // The guest wrote it.
                let output = outcome.exec.stdout.lines().map(|line| format!("  {}", escaped(line)));
                let command = std::iter::once(whole(&format!("$ {COMMAND}")));
                command.chain(output).collect()
            })
            .await?;
        let exit_code = outcome.exec.exit_code;
        if exit_code == 0 {
            return Ok(());
        }
        let message = format!("the guest cannot run a shell command: exit code {exit_code}");
        let failure = PyroError::new(ErrorKind::EnvironmentUnavailable, message);
        Err(failure.hint("make the environment anew: `pyro env pull --refresh NAME`"))
    }

    async fn probe(&self, id: &VmId, arguments: &WalkArguments) -> Result<Finding, PyroError> {
        let target = &arguments.probe;
        let request = target.request()?;
        let exec = async |_: Show<'_>| self.pyro.exec_vm(id, request, Streams::default()).await;
        let text = |finding: &Finding| {
            let Finding { target, reason, allow_with, .. } = finding;
            let mut lines = match reason {
                None => vec![format!("{target} is {GREEN}reachable{GREEN:#} from inside")],
                // It may be in the guest's words.
                Some(reason) => vec![
                    format!("{target} is {YELLOW}not reachable{YELLOW:#} from inside:"),
                    format!("  {}", escaped(reason)),
                ],
            };
            if let Some(arguments) = allow_with {
                lines.push(format!("  allow it: {}", whole(&arguments.as_options())));
            }
            lines
        };
        let outcome =
            self.step("network", exec, |outcome| text(&target.finding(&outcome.exec))).await?;
        Ok(target.finding(&outcome.exec))
    }

    /// Does one step, and shows what came of it.
    async fn step<T: Serialize>(
        &self,
        name: &'static str,
        work: impl AsyncFnOnce(Show<'_>) -> Result<T, PyroError>,
        text: impl FnOnce(&T) -> Vec<String>,
    ) -> Result<T, PyroError> {
        let display = Display::new(self.screen.output);
        let begin = Instant::now();
        let outcome = work(&|progress: Progress| display.show(progress)).await;
        let duration = begin.elapsed();
        display.clear();
        let outcome = outcome.map_err(|failure| failure.context(format!("`{name}` failed")))?;
        self.screen.step(name, duration, &text(&outcome))?;
        let document = serde_json::to_value(&outcome).expect("payloads have string keys");
        let step = Step { name, duration_ms: milliseconds(duration), outcome: document };
        self.steps.borrow_mut().push(step);
        Ok(outcome)
    }
}

type Show<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// What a reader sees, until there is none any more.
struct Screen {
    output: OutputArguments,
    printed: RefCell<io::Result<()>>,
}

impl Screen {
    /// A step in columns: what, how long, and what it means.
    fn step(&self, name: &str, duration: Duration, lines: &[String]) -> Result<(), PyroError> {
        let mut text = String::new();
        let heads = std::iter::once(format!("{BOLD}{name:<8}{BOLD:#}{:>8}", time(duration)));
        for (head, line) in heads.chain(std::iter::repeat(" ".repeat(16))).zip(lines) {
            text += &terminal::line(
                21 + line.len() - line.trim_start().len(),
                &format!("{head}   {line}"),
            );
        }
        self.print(&text);
        match &*self.printed.borrow() {
            Ok(()) => Ok(()),
            Err(error) => Err(PyroError::from_error(ErrorKind::Interrupted, error)),
        }
    }

    fn print(&self, text: &str) {
        if self.output.json || self.printed.borrow().is_err() {
            return;
        }
        *self.printed.borrow_mut() = terminal::print(text);
    }
}

fn time(duration: Duration) -> String {
    match duration.as_millis() {
        milliseconds @ 0..1000 => format!("{milliseconds} ms"),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
