//! Steps of a task: announced, timed, and summed up at the end.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::workspace;

/// The steps that a task has done so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    name: String,
    elapsed: Duration,
    failure: Option<String>,
}

impl Steps {
    /// Does `work` as a step. A failure is returned as well as remembered.
    pub(crate) fn run<T>(
        &mut self,
        name: &str,
        work: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        println!("\n==> {name}");
        let started = Instant::now();
        let outcome = work();
        let failure = outcome.as_ref().err().cloned();
        self.done.push(Step { name: name.to_owned(), elapsed: started.elapsed(), failure });
        outcome
    }

    /// Runs `command` as a step.
    pub(crate) fn command(&mut self, name: &str, command: &mut Command) -> Result<(), String> {
        self.run(name, || run(command))
    }

    /// Prints a line per step and the sum. Fails if a step has failed.
    pub(crate) fn finish(self) -> Result<(), String> {
        println!("\n{}", self.summary());
        let failed = self.done.iter().filter(|step| step.failure.is_some()).count();
        match failed {
            0 => Ok(()),
            1 => Err("1 step failed".to_owned()),
            count => Err(format!("{count} steps failed")),
        }
    }

    fn summary(&self) -> String {
        let mut text = String::new();
        for step in &self.done {
            let mark = if step.failure.is_none() { "ok  " } else { "FAIL" };
            text += &format!("{mark} {:>8.1} s  {}\n", step.elapsed.as_secs_f64(), step.name);
            if let Some(failure) = &step.failure {
                text += &format!("                 {failure}\n");
            }
        }
        let total: Duration = self.done.iter().map(|step| step.elapsed).sum();
        text + &format!("     {:>8.1} s  in all", total.as_secs_f64())
    }
}

/// Runs `command` with this process's standard streams.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    println!("    {}", workspace::name(command).trim_matches('`'));
    workspace::status(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_marked_and_fails_the_task() {
        let mut steps = Steps::default();
        steps.run("works", || Ok(())).unwrap();
        let failed: Result<(), _> = steps.run("breaks", || Err("it broke".to_owned()));
        failed.unwrap_err();
        let summary = steps.summary();
        assert!(summary.contains("ok  ") && summary.contains("works"), "{summary}");
        assert!(summary.contains("FAIL") && summary.contains("it broke"), "{summary}");
        assert_eq!(steps.finish().unwrap_err(), "1 step failed");
    }
}
