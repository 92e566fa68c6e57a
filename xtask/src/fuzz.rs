//! `cargo xtask fuzz`: the targets of `fuzz/`, with libFuzzer.
//!
//! cargo-fuzz would do this with a nightly compiler. What it needs that for is the address sanitizer,
//! which finds little in safe code; the coverage that guides libFuzzer is there on stable as well.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use fs_err as fs;

use crate::{prerequisites, workspace};

const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// What cargo-fuzz passes, without the sanitizer.
const COVERAGE_FLAGS: &str = "-Cpasses=sancov-module \
     -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
     -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares \
     -Ccodegen-units=1";

/// An input that takes longer, or a target that holds more, is a finding.
const INPUT_SECONDS_MAX: u32 = 10;
const MEMORY_MIB_MAX: u32 = 1024;

/// Longer inputs than this show nothing new, but cost time.
const INPUT_BYTES_MAX: u32 = 8192;

#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// One target of `fuzz/fuzz_targets`; all, one after the other, if none is named
    target: Option<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Fuzz nothing, but make the committed corpus the smallest that covers all that was found so far
    #[arg(long, conflicts_with = "seconds")]
    minimise: bool,
}

/// The directories of one target.
struct Target {
    name: String,
    executable: PathBuf,
    /// Committed, and replayed by the tests.
    corpus: PathBuf,
    /// What this machine found besides.
    found: PathBuf,
    /// Inputs that break a claim.
    artifacts: PathBuf,
    log: PathBuf,
}

pub(crate) fn fuzz(fuzz: &Fuzz) -> Result<(), String> {
    let names = chosen(target_names()?, fuzz.target.as_deref())?;
    prerequisites::for_fuzzing()?;
    let directory = workspace::target()?.join("fuzz");
    build(&directory)?;
    let mut broken = Vec::new();
    for name in names {
        let target = Target::of(name, &directory)?;
        if fuzz.minimise {
            target.minimise(&directory)?;
        } else if let Err(reason) = target.run(fuzz.seconds) {
            println!("    {reason}");
            broken.push(target.name);
        }
    }
    if broken.is_empty() { Ok(()) } else { Err(format!("findings in {}", broken.join(", "))) }
}

fn chosen(names: Vec<String>, asked: Option<&str>) -> Result<Vec<String>, String> {
    match asked {
        None => Ok(names),
        Some(asked) if names.iter().any(|name| name == asked) => Ok(vec![asked.to_owned()]),
        Some(asked) => Err(format!("no target is named `{asked}`; there are {}", names.join(", "))),
    }
}

/// The executables of the fuzz crate.
fn target_names() -> Result<Vec<String>, String> {
    let metadata = workspace::metadata(&workspace::fuzz_manifest())?;
    let targets = metadata["packages"][0]["targets"].as_array().into_iter().flatten();
    let names = targets.filter_map(|target| Some(target["name"].as_str()?.to_owned()));
    Ok(names.collect())
}

/// The target is named, so that build scripts and macros, which run on the host, get no such flags.
fn build(directory: &Path) -> Result<(), String> {
    let mut command = workspace::cargo();
    command.args(["build", "--release", "--target", TRIPLE, "--manifest-path"]);
    command.arg(workspace::fuzz_manifest()).arg("--target-dir").arg(directory);
    command.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", COVERAGE_FLAGS);
    workspace::status(&mut command)
}

impl Target {
    fn of(name: String, directory: &Path) -> Result<Self, String> {
        let target = Self {
            executable: directory.join(TRIPLE).join("release").join(&name),
            corpus: workspace::root().join("fuzz/corpus").join(&name),
            found: directory.join("found").join(&name),
            artifacts: directory.join("artifacts").join(&name),
            log: directory.join(format!("{name}.log")),
            name,
        };
        for directory in [&target.corpus, &target.found, &target.artifacts] {
            fs::create_dir_all(directory).map_err(|error| error.to_string())?;
        }
        Ok(target)
    }

    fn run(&self, seconds: u32) -> Result<(), String> {
        println!("==> {} for {seconds} s, starting from {}", self.name, self.corpus.display());
        let mut command = self.engine();
        command.arg(format!("-max_total_time={seconds}"));
        command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
        // New inputs go to the first directory.
        command.args([&self.found, &self.corpus]);
        let outcome = self.status(&mut command);
        let log = fs::read(&self.log).map_err(|error| error.to_string())?;
        println!("    {}", Report::of(&String::from_utf8_lossy(&log)));
        outcome.map_err(|_| self.finding())
    }

    /// Replaces the corpus by few inputs that cover what it and `found` cover.
    fn minimise(&self, directory: &Path) -> Result<(), String> {
        let minimal = directory.join("minimal").join(&self.name);
        fs::remove_dir_all(&minimal).ok();
        fs::create_dir_all(&minimal).map_err(|error| error.to_string())?;
        let mut command = self.engine();
        command.arg("-set_cover_merge=1").args([&minimal, &self.corpus, &self.found]);
        self.status(&mut command)?;
        replace_found(&self.corpus, &minimal).map_err(|error| error.to_string())?;
        println!("==> {}: {}", self.name, self.corpus.display());
        Ok(())
    }

    fn engine(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command.args([
            "-print_final_stats=1".to_owned(),
            format!("-timeout={INPUT_SECONDS_MAX}"),
            format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
            format!("-artifact_prefix={}/", self.artifacts.display()),
        ]);
        command
    }

    fn status(&self, command: &mut Command) -> Result<(), String> {
        let log: File = fs::File::create(&self.log).map_err(|error| error.to_string())?.into();
        command.stderr(log);
        workspace::status(command).map_err(|error| format!("{error}, see {}", self.log.display()))
    }

    fn finding(&self) -> String {
        format!(
            "found something: the input is in {}, the reason at the end of {}\n    \
             give it to the target's executable to see it again: {}",
            self.artifacts.display(),
            self.log.display(),
            self.executable.display(),
        )
    }
}

/// Puts what the fuzzer found into a corpus, in place of what it found before. What was put there by
/// hand stays, whatever it covers.
fn replace_found(corpus: &Path, minimal: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(corpus)? {
        let entry = entry?;
        if is_found(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
        }
    }
    for entry in fs::read_dir(minimal)? {
        let entry = entry?;
        fs::copy(entry.path(), corpus.join(entry.file_name()))?;
    }
    Ok(())
}

/// Whether libFuzzer named this file: by the SHA-1 of what is in it.
fn is_found(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What libFuzzer says of a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    executions: Option<String>,
    /// Edges that were reached.
    coverage: Option<String>,
    /// Inputs that together reach them, and their size.
    corpus: Option<String>,
}

impl Report {
    fn of(log: &str) -> Self {
        let status = log.lines().rfind(|line| line.starts_with('#') && line.contains(" cov: "));
        let value = |name: &str| {
            let mut words = status?.split_whitespace();
            words.find(|word| *word == name)?;
            words.next().map(str::to_owned)
        };
        let executions = log.lines().find_map(|line| line.strip_prefix(EXECUTIONS));
        Self {
            executions: executions.map(|count| count.trim().to_owned()),
            coverage: value("cov:"),
            corpus: value("corp:"),
        }
    }
}

const EXECUTIONS: &str = "stat::number_of_executed_units:";

impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
        let Self { executions, coverage, corpus } = self;
        let (executions, coverage, corpus) = (shown(executions), shown(coverage), shown(corpus));
        write!(
            formatter,
            "{executions} executions, {coverage} edges covered, by {corpus} of inputs"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_corpus_and_every_corpus_a_target() {
        let corpora = fs::read_dir(workspace::root().join("fuzz/corpus")).unwrap();
        let mut corpora: Vec<_> =
            corpora.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        corpora.sort_unstable();
        let mut names = target_names().unwrap();
        names.sort_unstable();
        assert_eq!(corpora, names);
    }

    #[test]
    fn an_input_that_was_put_there_by_hand_stays() {
        let (corpus, minimal) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (old, new) = ("0".repeat(40), "1".repeat(40));
        fs::write(corpus.path().join("run-beyond-the-end"), "x").unwrap();
        fs::write(corpus.path().join(old), "y").unwrap();
        fs::write(minimal.path().join(&new), "z").unwrap();
        replace_found(corpus.path(), minimal.path()).unwrap();
        let mut names: Vec<_> = fs::read_dir(corpus.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, [new, "run-beyond-the-end".to_owned()]);
    }

    #[test]
    fn a_report_is_read_from_what_libfuzzer_prints() {
        let log = "INFO: Seed: 1\n\
                   #2\tINITED cov: 12 ft: 12 corp: 1/1b exec/s: 0 rss: 27Mb\n\
                   #1028346\tDONE   cov: 307 ft: 796 corp: 328/27Kb lim: 4096 exec/s: 9 rss: 28Mb\n\
                   stat::number_of_executed_units: 1028346\n";
        let report = Report::of(log).to_string();
        assert_eq!(report, "1028346 executions, 307 edges covered, by 328/27Kb of inputs");
    }

    #[test]
    fn an_unknown_target_is_refused_with_the_known_ones() {
        let names = vec!["frames".to_owned(), "credit".to_owned()];
        let refused = chosen(names, Some("frame")).unwrap_err();
        assert_eq!(refused, "no target is named `frame`; there are frames, credit");
    }
}
