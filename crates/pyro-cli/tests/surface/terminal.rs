//! What people at a terminal see: colours unless they said no, lines that fit, a moving line that goes without a trace.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::{Outcome, pyro, pyro_with};

const ESCAPE: char = '\x1b';

const CTRL_C: &[u8] = b"\x03";

/// Erases the moving line.
const ERASE: &str = "\r\x1b[J";

/// `pyro` with these words, at a terminal of its own. What it prints to either stream comes on standard output.
struct AtTerminal {
    home: TempDir,
    script: Command,
}

impl AtTerminal {
    fn new(columns: u16, words: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut script = Command::new("script");
        script
            .args(["--quiet", "--return", "--command"])
            .arg(format!("stty rows 40 columns {columns}; {} {words}", env!("CARGO_BIN_EXE_pyro")))
            .arg("/dev/null")
            .env_clear()
            .env("HOME", home.path())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("TERM", "xterm");
        Self { home, script }
    }

    fn with(mut self, variables: &[(&str, &str)]) -> Self {
        self.script.envs(variables.iter().copied());
        self
    }

    fn outcome(mut self) -> Outcome {
        let outcome = Outcome::of(&mut self.script);
        drop(self.home);
        outcome
    }

    /// What it prints, without colours, where it must succeed.
    fn text(self) -> String {
        let outcome = self.with(&[("NO_COLOR", "1")]).outcome();
        assert_eq!(outcome.exit_code, 0, "{outcome:#?}");
        outcome.stdout.replace("\r\n", "\n")
    }
}

/// A pull that fails at once, because its mirror refuses connections.
fn failing_pull(options: &str) -> AtTerminal {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mirror = format!("http://{}/debian", listener.local_addr().unwrap());
    AtTerminal::new(60, &format!("env pull {options} --mirror {mirror} debian:12-base"))
}

#[test]
fn a_terminal_gets_colours_unless_they_are_not_wanted() {
    let list = |variables: &[(&str, &str)]| {
        let outcome = AtTerminal::new(80, "env list").with(variables).outcome();
        assert_eq!(outcome.exit_code, 0, "{outcome:#?}");
        outcome.stdout
    };
    let coloured = list(&[]);
    assert!(coloured.contains(ESCAPE), "{coloured:?}");
    let plain = list(&[("NO_COLOR", "1")]);
    assert!(plain.contains("debian:12-base") && !plain.contains(ESCAPE), "{plain:?}");
}

#[test]
fn whatever_is_no_terminal_gets_plain_text() {
    let calls: [&[&str]; 5] =
        [&["env", "list"], &["doctor"], &["--help"], &["run", "x", "--", "true"], &["bogus"]];
    for arguments in calls {
        let Outcome { stdout, stderr, .. } = pyro(arguments);
        assert!(!stdout.contains(ESCAPE) && !stderr.contains(ESCAPE), "{arguments:?}");
    }
}

#[test]
fn colours_can_be_forced() {
    assert!(pyro_with(&[("CLICOLOR_FORCE", "1")], &["env", "list"]).stdout.contains(ESCAPE));
}

#[test]
fn lines_that_are_too_long_go_on_below_their_column() {
    let list = AtTerminal::new(80, "env list").text();
    assert_eq!(list, include_str!("golden-80-columns/env-list.txt"));
    // Where they have room they stay whole, as for a program.
    assert_eq!(AtTerminal::new(120, "env list").text(), pyro(&["env", "list"]).stdout);
    let error = AtTerminal::new(60, "run x -- true").with(&[("NO_COLOR", "1")]).outcome();
    assert_eq!(error.exit_code, 125);
    let lines = [
        "error: unknown environment 'x'; expected one of: debian:12,",
        "       debian:12-base, debian:12-build",
    ];
    assert!(error.stdout.lines().eq(lines), "{error:#?}");
}

#[test]
fn the_doctors_lines_fit_and_begin_in_their_column() {
    let outcome = AtTerminal::new(80, "doctor").with(&[("NO_COLOR", "1")]).outcome();
    for line in outcome.stdout.lines() {
        let begins_check =
            ["  PASS ", "  WARN ", "  FAIL "].iter().any(|mark| line.starts_with(mark));
        let goes_on = line.starts_with(&" ".repeat(22));
        let is_verdict = line.is_empty() || line.starts_with("VMs can");
        assert!(begins_check || goes_on || is_verdict, "{line:?}: {outcome:#?}");
        // What can be copied is not broken.
        let is_whole = line.trim_start().starts_with(['/', '`']);
        assert!(line.chars().count() <= 80 || is_whole, "{line:?}: {outcome:#?}");
    }
}

#[test]
fn help_texts_are_as_wide_as_the_terminal() {
    let help = AtTerminal::new(80, "run --help").text();
    assert_eq!(help, include_str!("golden-80-columns/run.txt"));
}

#[test]
fn a_pull_shows_a_line_at_a_terminal_and_takes_it_away_before_its_error() {
    for variables in [&[][..], &[("NO_COLOR", "1")]] {
        let outcome = failing_pull("").with(variables).outcome();
        assert_eq!(outcome.exit_code, 1, "{outcome:#?}");
        let (progress, error) = outcome.stdout.rsplit_once(ERASE).unwrap();
        assert!(progress.contains("kernel: reading signed package lists"), "{outcome:#?}");
        assert!(!progress.contains('\n'), "it is one line: {outcome:#?}");
        assert!(!progress.replace("\x1b[J", "").contains(ESCAPE), "{outcome:#?}");
        assert_eq!(error.contains(ESCAPE), variables.is_empty(), "{outcome:#?}");
        assert!(error.contains("cannot pull `debian:12-base`"), "{outcome:#?}");
    }
}

#[test]
fn ctrl_c_takes_the_line_away() {
    // It accepts connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mirror = format!("http://{}/debian", silent.local_addr().unwrap());
    let mut at_terminal =
        AtTerminal::new(60, &format!("env pull --mirror {mirror} debian:12-base"));
    let mut child =
        at_terminal.script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut printed = Vec::new();
    while !String::from_utf8_lossy(&printed).contains("reading signed package lists") {
        let mut piece = [0; 256];
        let count = stdout.read(&mut piece).unwrap();
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&printed));
        printed.extend_from_slice(&piece[..count]);
    }
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(CTRL_C).unwrap();
    stdout.read_to_end(&mut printed).unwrap();
    let printed = String::from_utf8(printed).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{printed:?}");
    assert!(printed.ends_with(ERASE), "{printed:?}");
    assert!(!printed.replace("^C", "").contains('\n'), "{printed:?}");
}

#[test]
fn there_is_no_moving_line_where_nobody_wants_one() {
    let step = "pyro: kernel: reading signed package lists\n";
    let printed = |at_terminal: AtTerminal| {
        let outcome = at_terminal.with(&[("NO_COLOR", "1")]).outcome();
        assert!(!outcome.stdout.contains(ESCAPE), "{outcome:#?}");
        assert!(!outcome.stdout.replace("\r\n", "\n").contains('\r'), "{outcome:#?}");
        outcome.stdout.replace("\r\n", "\n")
    };
    let dumb = printed(failing_pull("").with(&[("TERM", "dumb")]));
    assert!(dumb.starts_with(&format!("{step}error: cannot pull")), "{dumb}");
    let quiet = printed(failing_pull("--quiet"));
    assert!(quiet.starts_with("error: cannot pull"), "{quiet}");
    let json = printed(failing_pull("--json"));
    assert!(json.starts_with(&format!("{step}{{\n  \"ok\": false")), "{json}");
}
