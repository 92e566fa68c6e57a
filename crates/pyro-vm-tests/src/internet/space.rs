//! A network namespace, which is there as long as a program in it.
//!
//! That program is the first of a namespace of processes as well, so that whatever it has started ends with it.
//! It ends when its standard input does, and so with the process of the test, however that ends.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

use serde_json::Value;

use crate::DEADLINE;
use crate::collector::Collector;

/// What serves: see there.
const SERVERS: &str = include_str!("servers.py");

/// Waits for a line, and becomes the servers with what that says.
const WAIT: &str = "echo here; read -r options && exec python3 -c \"$0\" \"$options\"";

/// Where Debian keeps programs of the system, which ordinary users do not look for there.
const PATH: &str = "PATH=$PATH:/usr/sbin:/sbin; ";

#[derive(Debug)]
pub(super) struct Space {
    program: Child,
    stdin: Mutex<ChildStdin>,
    told: Collector,
    complaints: Collector,
    /// The words by which another program gets in.
    enter: Vec<String>,
}

impl Space {
    /// A namespace in which there is nothing. For an ordinary user it is in one of users, the first's.
    pub(super) fn new(first: Option<&Self>) -> Self {
        let is_root = rustix::process::geteuid().is_root();
        let mut words: Vec<String> = Vec::new();
        match first {
            Some(first) if !is_root => words.extend(first.enter_user()),
            Some(_) | None => (),
        }
        words.push("unshare".to_owned());
        if first.is_none() && !is_root {
            words.extend(["--user", "--map-root-user"].map(str::to_owned));
        }
        words.extend(["--net", "--pid", "--fork", "--kill-child", "sh", "-c"].map(str::to_owned));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(format!("{PATH}{WAIT}")).arg(SERVERS);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut program = command.spawn().unwrap();
        let stdin = Mutex::new(program.stdin.take().unwrap());
        let told = Collector::of(program.stdout.take().unwrap());
        let complaints = Collector::of(program.stderr.take().unwrap());
        let mut space = Self { program, stdin, told, complaints, enter: Vec::new() };
        space.wait_for("here\n");
        let mut enter = match first {
            _ if is_root => vec!["nsenter".to_owned()],
            Some(first) => first.enter_user(),
            None => space.enter_user(),
        };
        enter.push(format!("--net=/proc/{}/ns/net", space.pid()));
        enter.push("--".to_owned());
        space.enter = enter;
        space
    }

    /// The process that has the namespace, as the host numbers it.
    pub(super) fn pid(&self) -> u32 {
        self.program.id()
    }

    pub(super) fn enter(&self) -> &[String] {
        &self.enter
    }

    /// A program in it, which is to be waited for.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.enter[0]);
        command.args(&self.enter[1..]).args(words);
        command
    }

    /// Runs a script in it, which must succeed.
    pub(super) fn run(&self, script: &str) {
        let output = self.command(&["sh", "-ec", &format!("{PATH}{script}")]).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{complaint}");
    }

    /// Starts the servers.
    pub(super) fn serve(&self, options: &Value) {
        self.send(&format!("{options}\n"));
        self.wait_for("ready\n");
    }

    pub(super) fn send(&self, line: &str) {
        self.stdin.lock().unwrap().write_all(line.as_bytes()).unwrap();
    }

    #[track_caller]
    pub(super) fn wait_for(&self, text: &str) {
        let came = self.told.comes_within(text, DEADLINE);
        let complaint = self.complaints.so_far();
        let complaint = String::from_utf8_lossy(&complaint);
        assert!(came, "no `{text}` in:\n{}\n{complaint}", self.told());
    }

    pub(super) fn told(&self) -> String {
        String::from_utf8_lossy(&self.told.so_far()).into_owned()
    }

    fn enter_user(&self) -> Vec<String> {
        let user = format!("--user=/proc/{}/ns/user", self.pid());
        vec!["nsenter".to_owned(), user, "--preserve-credentials".to_owned()]
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // What it has started dies with it, of the signal that `--kill-child` is about.
        self.program.kill().ok();
        self.program.wait().ok();
    }
}
