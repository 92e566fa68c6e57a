//! Building from Debian's signed archive with Debian's own tools, isolated
//! from the host and without root.
//!
//! mmdebstrap runs in namespaces of its own (see `isolation`), so its mounts
//! never reach the host and nothing it started outlives it; `process` runs
//! it and follows what it prints.

mod bzimage;
mod diagnosis;
mod isolation;
pub(crate) mod kernel;
mod modules;
pub(crate) mod process;
pub(crate) mod root_filesystem;
pub(crate) mod space;
pub(crate) mod tools;
mod transcript;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::isolation::Isolation;
use self::process::Children;
use self::tools::Tools;
use crate::archive::ResolvedArchive;
use crate::catalog::EnvironmentDefinition;
use crate::pull::error::PullError;
use crate::pull::progress::PullProgress;

/// Debian's archive is signed with these keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The scripts that mmdebstrap runs, in order of their use.
const SETUP_HOOK: &str = include_str!("../../recipes/setup.sh");
const CUSTOMIZE_HOOK: &str = include_str!("../../recipes/customize.sh");
const KERNEL_HOOK: &str = include_str!("../../recipes/kernel.sh");

/// Everything that a build needs to know.
pub(crate) struct Build<'a> {
    definition: &'static EnvironmentDefinition,
    /// What error messages name: `directory` is gone when they are read.
    store_root: &'a Path,
    /// Made for this build and deleted after it.
    directory: &'a Path,
    archive: &'a ResolvedArchive,
    tools: &'a Tools<'a>,
    isolation: Isolation,
    children: &'a Children,
    report: &'a (dyn Fn(PullProgress) + Sync),
}

impl<'a> Build<'a> {
    /// Prepares a build in `directory`, which must be empty and in the store,
    /// so that the result can be renamed into place.
    pub(crate) fn prepare(
        definition: &'static EnvironmentDefinition,
        store_root: &'a Path,
        directory: &'a Path,
        archive: &'a ResolvedArchive,
        tools: &'a Tools<'a>,
        children: &'a Children,
        report: &'a (dyn Fn(PullProgress) + Sync),
    ) -> Result<Self, PullError> {
        let isolation = Isolation::detect(tools)?;
        let build =
            Self { definition, store_root, directory, archive, tools, isolation, children, report };
        build.write_hooks().map_err(|source| build.write_error(source))?;
        Ok(build)
    }

    fn write_hooks(&self) -> io::Result<()> {
        fs_err::create_dir(self.temporary_directory())?;
        fs_err::create_dir(self.hooks_directory())?;
        for (name, script) in
            [("setup", SETUP_HOOK), ("customize", CUSTOMIZE_HOOK), ("kernel", KERNEL_HOOK)]
        {
            fs_err::write(self.hooks_directory().join(name), script)?;
        }
        Ok(())
    }

    fn temporary_directory(&self) -> PathBuf {
        self.directory.join("tmp")
    }

    fn hooks_directory(&self) -> PathBuf {
        self.directory.join("hooks")
    }

    /// mmdebstrap with the options that all builds share; the caller adds its
    /// own, and then [`Self::finish_mmdebstrap`] adds suite and sources.
    fn mmdebstrap(&self) -> Result<Command, PullError> {
        let mut command = self.isolation.command(self.tools, "mmdebstrap")?;
        command
            .env("TMPDIR", self.temporary_directory())
            .env("PYRO_HOOKS", self.hooks_directory())
            .env("SOURCE_DATE_EPOCH", self.definition.source_date_epoch.to_string())
            .arg(self.isolation.mmdebstrap_mode())
            .args(["--verbose", "--architectures=amd64"])
            // apt's defaults would take minutes over a mirror that is not there.
            .arg("--aptopt=Acquire::Retries \"2\"")
            .arg("--aptopt=Acquire::http::Timeout \"20\"")
            .arg("--aptopt=Acquire::https::Timeout \"20\"");
        if let Some(proxy) = &self.archive.proxy {
            // By environment, because options end up in the image.
            command.env("http_proxy", proxy).env("https_proxy", proxy);
        }
        if Path::new(KEYRING).exists() {
            command.arg(format!("--keyring={KEYRING}"));
        }
        Ok(command)
    }

    fn finish_mmdebstrap(&self, command: &mut Command) {
        command.args([self.definition.suite, "-"]).args(&self.archive.sources);
    }

    /// The option that makes mmdebstrap run one of our scripts. The path goes
    /// through the environment, where it needs no quoting.
    fn hook(stage: &str, script: &str) -> String {
        format!("--{stage}-hook=sh \"$PYRO_HOOKS/{script}\" \"$1\"")
    }

    /// The names of the mirrors for a message, without their passwords.
    fn mirror_names(&self) -> Vec<String> {
        if self.archive.sources.is_empty() {
            return vec!["that mmdebstrap uses by default".to_owned()];
        }
        let mut names = Vec::new();
        for source in &self.archive.sources {
            let url = source.split(' ').find(|word| word.contains("://")).unwrap_or(source);
            let name = without_credentials(url);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    fn write_error(&self, source: io::Error) -> PullError {
        space::write_error(self.store_root, self.definition.build_bytes, source)
    }
}

fn without_credentials(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
            let host = host.rsplit_once('@').map_or(host, |(_credentials, host)| host);
            format!("{scheme}://{host}/{path}")
        }
        None => url.to_owned(),
    }
}

/// A command that inherits nothing from whoever started pyro.
fn clean_command(program: &Path, search_path: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", search_path).env("LC_ALL", "C.UTF-8").env("TERM", "dumb");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_named_without_its_password() {
        for (url, name) in [
            ("http://m.example/debian", "http://m.example/debian"),
            ("https://user:secret@m.example/debian/", "https://m.example/debian/"),
            ("http://m.example", "http://m.example/"),
        ] {
            assert_eq!(without_credentials(url), name);
        }
    }
}
