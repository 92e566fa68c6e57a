//! A pull in a process of its own, followed through what it prints.

use std::io::{BufRead as _, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

pub(crate) const TOOL_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
pub(crate) const EXECUTABLE: &str = env!("CARGO_BIN_EXE_pyro-test-puller");
pub(crate) const BASE: &str = "debian:12-base";

/// How to pull `debian:12-base`; everything else has a default.
pub(crate) struct PullRequest<'a> {
    pub store: &'a Path,
    pub mode: &'a str,
    pub tool_path: &'a str,
    pub proxy: &'a str,
    pub mirrors: &'a [&'a str],
}

impl<'a> PullRequest<'a> {
    pub(crate) fn into(store: &'a Path) -> Self {
        Self { store, mode: "missing", tool_path: TOOL_PATH, proxy: "-", mirrors: &[] }
    }

    /// Adds the arguments that the puller takes.
    pub(crate) fn add_to<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .arg(self.store)
            .args([BASE, self.mode, self.tool_path, self.proxy])
            .args(self.mirrors)
    }

    pub(crate) fn start(&self) -> Puller {
        Puller::spawn(self.add_to(&mut Command::new(EXECUTABLE)))
    }
}

/// A running puller.
pub(crate) struct Puller {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    seen: Vec<String>,
}

/// A puller that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub succeeded: bool,
    pub lines: Vec<String>,
}

impl Puller {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let stdout = process.stdout.take().unwrap();
        Self { process, lines: BufReader::new(stdout).lines(), seen: Vec::new() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Reads on until a line begins with `prefix`, and returns that line.
    pub(crate) fn wait_for(&mut self, prefix: &str) -> String {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            self.seen.push(line.clone());
            if line.starts_with(prefix) {
                return line;
            }
        }
        panic!("the puller ended before `{prefix}`: {:#?}", self.seen);
    }

    /// SIGKILL: nothing of the puller's own code runs any more.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn end(mut self) -> Ended {
        self.seen.extend(self.lines.by_ref().map(Result::unwrap));
        let status = self.process.wait().unwrap();
        Ended { succeeded: status.success(), lines: self.seen }
    }
}

impl Ended {
    /// The digest of what it installed.
    pub(crate) fn installed(&self) -> &str {
        assert!(self.succeeded, "{:#?}", self.lines);
        self.lines.last().unwrap().strip_prefix("installed ").unwrap()
    }

    /// The line with the variant and the values of the error.
    pub(crate) fn error(&self) -> &str {
        assert!(!self.succeeded, "{:#?}", self.lines);
        self.lines.iter().find_map(|line| line.strip_prefix("error ")).unwrap()
    }

    pub(crate) fn has_line(&self, prefix: &str) -> bool {
        self.lines.iter().any(|line| line.starts_with(prefix))
    }
}
