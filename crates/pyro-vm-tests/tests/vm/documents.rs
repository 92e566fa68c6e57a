//! The commands that the documents show: each is run, and does what is shown.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pyro_vm_tests::{
    BUILD, DEFAULT, Host, Shown, cache_with, executable, first_missing, shown_commands,
};

/// How long all commands of a document may take together, on a host that does much else.
const DEADLINE: Duration = Duration::from_mins(15);

/// As many VMs as any document has at once.
const VMS_MAX: usize = 3;

/// The documents with commands that are run, each in a test below.
const RUN: [&str; 10] = [
    "README.md",
    "docs/configuration.md",
    "docs/demo.md",
    "docs/environments.md",
    "docs/first-run.md",
    "docs/host-requirements.md",
    "docs/mcp.md",
    "docs/network.md",
    "docs/spares.md",
    "docs/troubleshooting.md",
];

/// What is shown and not run: the document, how the block's first command begins, how many there are, and how the
/// reason begins.
const NOT_RUN: [(&str, &str, usize, &str); 11] = [
    ("CONTRIBUTING.md", "cargo build ", 15, "(they build and test everything"),
    ("README.md", "cargo xtask demo", 2, "(it installs packages as root"),
    ("README.md", "pyro run -it ", 2, "(the one needs somebody who types"),
    ("docs/demo.md", "ollama pull ", 2, "(it downloads a model"),
    ("docs/environments.md", "pyro env pull --mirror ", 3, "(it asks mirrors that are not there"),
    ("docs/first-run.md", "sudo apt-get install qemu-", 1, "(it installs packages as root"),
    ("docs/first-run.md", "python3 -m venv ", 3, "(it builds the package"),
    ("docs/host-requirements.md", "sudo usermod -aG kvm ", 1, "(it changes the host's users"),
    ("docs/mcp.md", "pyro mcp serve ", 2, "(the one serves until it is ended"),
    ("docs/network.md", "pyro run --network ", 4, "(it asks hosts that are not there"),
    ("docs/python.md", "pip install .", 2, "(it builds the package"),
];

#[test]
fn the_readme_shows_what_happens() {
    cache_with(BUILD);
    assert_shown("README.md");
}

#[test]
fn the_document_on_configuration_shows_what_happens() {
    assert_shown("docs/configuration.md");
}

#[test]
fn the_document_on_demos_shows_what_happens() {
    assert_shown("docs/demo.md");
}

#[test]
fn the_document_on_environments_shows_what_happens() {
    assert_shown("docs/environments.md");
}

#[test]
fn the_document_on_first_run_shows_what_happens() {
    assert_shown("docs/first-run.md");
}

#[test]
fn the_document_on_host_requirements_shows_what_happens() {
    assert_shown("docs/host-requirements.md");
}

#[test]
fn the_document_on_mcp_shows_what_happens() {
    assert_shown("docs/mcp.md");
}

#[test]
fn the_document_on_network_shows_what_happens() {
    assert_shown("docs/network.md");
}

#[test]
fn the_document_on_spares_shows_what_happens() {
    assert_shown("docs/spares.md");
}

#[test]
fn the_document_on_troubleshooting_shows_what_happens() {
    assert_shown("docs/troubleshooting.md");
}

#[test]
fn every_command_in_a_document_is_run_or_says_why_not() {
    let mut run = Vec::new();
    let mut not_run: Vec<(String, String, usize, String)> = Vec::new();
    for path in documents() {
        for shown in commands_of(&path) {
            let last = not_run.last_mut();
            match (shown.not_run, last) {
                (Some(reason), Some((last_path, _, count, last_reason)))
                    if (&path, &reason) == (&*last_path, &*last_reason) =>
                {
                    *count += 1;
                }
                (Some(reason), _) => not_run.push((path.clone(), shown.command, 1, reason)),
                (None, _) if !run.contains(&path) => run.push(path.clone()),
                (None, _) => {}
            }
        }
    }
    assert_eq!(run, RUN);
    assert_eq!(not_run.len(), NOT_RUN.len(), "{not_run:#?}");
    for (found, expected) in not_run.iter().zip(NOT_RUN) {
        let (path, command, count, reason) = expected;
        let is_it = (found.0.as_str(), found.2) == (path, count)
            && found.1.starts_with(command)
            && found.3.starts_with(reason);
        assert!(is_it, "{found:?} is not {expected:?}");
    }
}

/// Runs the commands of a document one after the other, in one shell, so that a variable which one
/// sets is there for the next. Those that fail are followed by `echo $?`.
#[track_caller]
fn assert_shown(path: &str) {
    let commands: Vec<_> =
        commands_of(path).into_iter().filter(|shown| shown.not_run.is_none()).collect();
    cache_with(DEFAULT);
    let host = Host::for_vms(VMS_MAX);
    let vms = host.vms();
    let [home, work, records] = ["home", "work", "records"].map(|name| host.directory().join(name));
    for directory in [&home, &work, &records] {
        fs_err::create_dir(directory).unwrap();
    }
    let script = host.directory().join("script");
    fs_err::write(&script, script_of(&commands, &records)).unwrap();
    let mut bash = Command::new("bash");
    bash.arg(script).current_dir(work).env("HOME", home);
    let running = vms.command(bash).start();
    assert!(running.ends_within(DEADLINE), "{path}: {:#?}", records_of(&records));
    running.outcome();
    for (index, shown) in commands.iter().enumerate() {
        let read = |name: &str| {
            let record = records.join(format!("{index}.{name}"));
            // As text with whatever the guest may have written.
            String::from_utf8_lossy(&fs_err::read(record).unwrap()).into_owned()
        };
        let (output, status) = (read("output"), read("status"));
        let place = format!("{path}:{}: `{}`", shown.line_number, shown.command);
        let missing = first_missing(&shown.output, &output);
        assert_eq!(missing, None, "{place} does not print this, but:\n{output}");
        let is_told = commands
            .get(index + 1)
            .is_some_and(|next| next.command == "echo $?" && !next.output.is_empty());
        assert!(is_told || status.trim() == "0", "{place} exits with {status}{output}");
    }
}

/// Writes what each command prints, and its status, to files of its own.
fn script_of(commands: &[Shown], records: &Path) -> String {
    let directory = executable().parent().unwrap().display();
    let mut script = format!("PATH='{directory}':$PATH\nexec </dev/null\nstatus=0\n");
    for (index, shown) in commands.iter().enumerate() {
        let record = records.join(index.to_string());
        let (record, command) = (record.display(), &shown.command);
        writeln!(
            script,
            "exec >>'{record}.output' 2>&1\n(exit $status)\n{command}\nstatus=$?\n\
             echo $status >'{record}.status'"
        )
        .unwrap();
    }
    script
}

/// What there is of the records, for a message.
fn records_of(directory: &Path) -> Vec<(PathBuf, String)> {
    let paths = fs_err::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut records: Vec<_> = paths
        .map(|path| (path.clone(), String::from_utf8_lossy(&fs_err::read(path).unwrap()).into()))
        .collect();
    records.sort();
    records
}

fn commands_of(path: &str) -> Vec<Shown> {
    shown_commands(&fs_err::read_to_string(root().join(path)).unwrap())
}

/// The documents for users, relative to the root.
fn documents() -> Vec<String> {
    let names = fs_err::read_dir(root().join("docs")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut documents: Vec<_> = names
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "md"))
        .map(|name| format!("docs/{name}"))
        .collect();
    documents.extend(["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(str::to_owned));
    documents.sort();
    documents
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}
