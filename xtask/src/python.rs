//! The Python package: built as users build it, and tested as it is installed.
//!
//! Everything lies below `python` in the target directory: a fresh virtual environment, the wheel, the state of VMs.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::steps::{Steps, run};
use crate::{guest_kernel, prerequisites, workspace};

/// What the tests need besides the package itself.
const REQUIREMENTS: &str = "python/tests/requirements.txt";

/// What puts a distribution together.
const BUILDER: &str = "build>=1.2,<2";

/// The oldest glibc that a wheel made on Debian 12 runs with: Debian 12's own.
const COMPATIBILITY: &str = "manylinux_2_36";

/// Only this suite; `options` are pytest's.
pub(crate) fn only(options: &[String]) -> Result<(), String> {
    let mut steps = Steps::default();
    if steps.run("install what is missing", prerequisites::for_python).is_ok() {
        test(&mut steps, options);
    }
    steps.finish()
}

/// Builds the wheel, installs it, and runs every check of the Python package.
pub(crate) fn test(steps: &mut Steps, options: &[String]) {
    let Ok(python) = steps.run("Python: build and install the wheel", install) else { return };
    let mut ruff = python.command("ruff");
    steps.command("Python: lints", ruff.args(["check", "python", "--no-cache"])).ok();
    let mut format = python.command("ruff");
    format.args(["format", "--check", "python", "--no-cache"]);
    steps.command("Python: format", &mut format).ok();
    let mut stubs = python.command("python");
    stubs.args(["-m", "mypy.stubtest", "pyro_mcp._native"]);
    steps.command("Python: stubs", &mut stubs).ok();
    let mut types = python.command("basedpyright");
    types.arg("--pythonpath").arg(python.program("python"));
    steps.command("Python: types", &mut types).ok();
    let mut tests = python.command("python");
    // Not `pytest`: its own directory would come before the installed package.
    tests.args(["-m", "pytest", "-p", "no:cacheprovider", "--durations=5"]).args(options);
    steps.command("Python: tests", &mut tests).ok();
}

/// The interpreter of an environment with the package, built and installed now.
pub(crate) fn interpreter() -> Result<Command, String> {
    prerequisites::for_python()?;
    Ok(install()?.command("python"))
}

/// Makes what is published: a wheel and a source distribution, in `dist` of the target directory.
pub(crate) fn distribute() -> Result<(), String> {
    let mut steps = Steps::default();
    let prepared = steps.run("install what is missing", || {
        prerequisites::for_python()?;
        prerequisites::for_guest_kernel()
    });
    let outcome = prepared.and_then(|()| {
        guest_kernel::build(&mut steps)?;
        let python = Python::fresh("dist-venv")?;
        steps.run("install the builder", || python.install(&[BUILDER]))?;
        let target = workspace::target()?.join("dist");
        let mut sdist = python.command("python");
        sdist.args(["-m", "build", "--sdist", "--outdir"]).arg(&target).arg(".");
        steps.command("source distribution", &mut sdist)?;
        let mut wheel = python.command("python");
        wheel.args(["-m", "build", "--wheel", "--config-setting=profile=dist"]);
        wheel.arg(format!("--config-setting=compatibility={COMPATIBILITY}"));
        steps.command("wheel", wheel.arg("--outdir").arg(&target).arg("."))
    });
    let finished = steps.finish();
    outcome.and(finished)
}

/// A virtual environment.
struct Python {
    directory: PathBuf,
}

impl Python {
    /// Makes one with nothing in it.
    fn fresh(name: &str) -> Result<Self, String> {
        let directory = directory()?.join(name);
        let mut venv = Command::new("python3");
        run(venv.args(["-m", "venv", "--clear"]).arg(&directory))?;
        Ok(Self { directory })
    }

    fn program(&self, name: &str) -> PathBuf {
        self.directory.join("bin").join(name)
    }

    /// A program in it, in the root of the workspace.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.program(program));
        command.current_dir(workspace::root());
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        // The state of VMs is this step's own: its tests look for whatever was left there.
        if let (Ok(target), Ok(own)) = (workspace::target(), directory()) {
            command.env("PYRO_ENVIRONMENT_CACHE_DIR", target.join("test-cache"));
            command.env("PYRO_STATE_DIR", own.join("state"));
        }
        command
    }

    fn install<S: AsRef<std::ffi::OsStr>>(&self, what: &[S]) -> Result<(), String> {
        let mut pip = self.command("python");
        run(pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(what))
    }
}

/// The wheel in a fresh environment, with what its tests need.
fn install() -> Result<Python, String> {
    let python = Python::fresh("venv")?;
    python.install(&["--requirement", REQUIREMENTS])?;
    let wheels = directory()?.join("wheels");
    // One of an earlier version would be installed as well.
    if wheels.exists() {
        fs_err::remove_dir_all(&wheels).map_err(|error| error.to_string())?;
    }
    let mut wheel = python.command("python");
    wheel.args(["-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    run(wheel.arg("--wheel-dir").arg(&wheels).arg("."))?;
    python.install(&[only_file(&wheels)?])?;
    Ok(python)
}

fn only_file(directory: &Path) -> Result<PathBuf, String> {
    let entries = fs_err::read_dir(directory).map_err(|error| error.to_string())?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    match (files.pop(), files.is_empty()) {
        (Some(file), true) => Ok(file),
        _ => Err(format!("one wheel was to be built in {}", directory.display())),
    }
}

fn directory() -> Result<PathBuf, String> {
    Ok(workspace::target()?.join("python"))
}
