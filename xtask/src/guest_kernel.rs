//! `cargo xtask guest-kernel`: the small guest kernels, built from the source package of Debian's.
//!
//! The same package, compiler and configuration give the same bytes, wherever the checkout is. Why there are two
//! kernels, and what they leave out: `guest/kernel/README.md`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::steps::{Steps, run};
use crate::{prerequisites, workspace};

/// The Debian package with the source.
const PACKAGE: &str = "linux-source-6.1";

/// What is in it: a directory of the package's name.
pub(crate) const ARCHIVE: &str = "/usr/src/linux-source-6.1.tar.xz";

/// The file in which is written down what they were built from.
const STAMP: &str = "stamp";

/// Changes with what this file does to make a kernel.
const RECIPE: u32 = 1;

/// One of the two kernels.
struct Variant {
    name: &'static str,
    /// In the manifest.
    key: &'static str,
    /// What is wanted beyond `allnoconfig`, in `guest/kernel`.
    fragments: &'static [&'static str],
}

const VARIANTS: [Variant; 2] = [
    Variant {
        name: "several-cpus",
        key: "several_cpus",
        fragments: &["config", "config.several-cpus"],
    },
    Variant { name: "one-cpu", key: "one_cpu", fragments: &["config"] },
];

/// What the kernel's licence asks to be passed on with it, in the source.
const LICENCES: [(&str, &str); 2] =
    [("COPYING", "COPYING"), ("LICENSES/preferred/GPL-2.0", "GPL-2.0")];

/// The task of that name.
pub(crate) fn guest_kernel() -> Result<(), String> {
    let mut steps = Steps::default();
    let prepared = steps.run("install what is missing", prerequisites::for_guest_kernel);
    if prepared.is_ok() {
        build(&mut steps).ok();
    }
    steps.finish()
}

/// Builds both kernels, unless they are there already.
pub(crate) fn build(steps: &mut Steps) -> Result<(), String> {
    let Some(place) = steps.run("guest kernels: unpack the source", Place::prepare)? else {
        return Ok(());
    };
    let mut manifest = json!({ "source": place.version });
    for variant in &VARIANTS {
        let name = format!("guest kernel: {}", variant.name);
        let built = steps.run(&name, || variant.build(&place))?;
        manifest["release"] = built.release.into();
        manifest[variant.key] = built.image;
    }
    steps.run("guest kernels: publish", || place.publish(&manifest))
}

/// Where they are built.
struct Place {
    /// 2 GB that only a change of the configuration needs again.
    work: PathBuf,
    source: PathBuf,
    /// What is to be published.
    fresh: PathBuf,
    /// The package of the source, and its version.
    version: String,
    stamp: String,
}

impl Place {
    /// With the source unpacked; `None` where nothing has changed since the last time.
    fn prepare() -> Result<Option<Self>, String> {
        let version = source_version()?;
        let basis = basis(&version)?;
        let stamp = stamp(&basis)?;
        let published = directory()?;
        let work = workspace::target()?.join("guest-kernel");
        if fs_err::read_to_string(published.join(STAMP)).is_ok_and(|found| found == stamp) {
            println!("    they are there, and nothing has changed since");
            // Of a build that was interrupted when it had published them.
            remove(&work)?;
            return Ok(None);
        }
        // Nobody takes what is out of date for what was asked for.
        remove(&published)?;
        let source = work.join(PACKAGE);
        let marker = work.join("basis");
        if fs_err::read_to_string(&marker).is_ok_and(|found| found == basis) {
            println!("    going on with what an earlier build has left");
        } else {
            remove(&work)?;
            fs_err::create_dir_all(&work).map_err(text)?;
            let mut tar = Command::new("tar");
            run(tar.args(["--extract", "--file", ARCHIVE, "--directory"]).arg(&work))?;
            write(&marker, &basis)?;
        }
        let fresh = work.join("fresh");
        remove(&fresh)?;
        fs_err::create_dir_all(&fresh).map_err(text)?;
        Ok(Some(Self { work, source, fresh, version, stamp }))
    }

    fn publish(&self, manifest: &Value) -> Result<(), String> {
        for (from, to) in LICENCES {
            fs_err::copy(self.source.join(from), self.fresh.join(to)).map_err(text)?;
        }
        write(&self.fresh.join("README"), NOTICE)?;
        write(&self.fresh.join("manifest.json"), &format!("{manifest:#}\n"))?;
        write(&self.fresh.join(STAMP), &self.stamp)?;
        let published = directory()?;
        let parent = published.parent().expect("it is below the target directory");
        fs_err::create_dir_all(parent).map_err(text)?;
        remove(&published)?;
        fs_err::rename(&self.fresh, &published).map_err(text)?;
        remove(&self.work)
    }
}

/// Where pyro looks for them when it runs from the target directory, and where the wheel takes them from.
fn directory() -> Result<PathBuf, String> {
    Ok(workspace::target()?.join("share/pyro-mcp/guest-kernel"))
}

/// For who finds the files, and asks where they come from.
const NOTICE: &str = "\
Two Linux kernels for the VMs of pyro, under the GNU General Public License, version 2: see COPYING and GPL-2.0.

Their source is the Debian package that manifest.json names, unchanged, and the configuration beside each of them. Debian
keeps every version of its source packages. `cargo xtask guest-kernel` in pyro's source makes the same files of them.
";

/// What a build that was interrupted must have in common with the one that goes on with it; `make` knows what else has
/// changed.
fn basis(source_version: &str) -> Result<String, String> {
    let mut basis = format!("recipe {RECIPE}\n{source_version}\n");
    for program in ["gcc", "ld"] {
        let version = workspace::output(Command::new(program).arg("--version"))?;
        basis += version.lines().next().unwrap_or_default();
        basis += "\n";
    }
    Ok(basis)
}

/// Everything the result depends on.
fn stamp(basis: &str) -> Result<String, String> {
    let mut stamp = basis.to_owned();
    for variant in &VARIANTS {
        stamp += &format!("\n{}\n{}", variant.name, variant.wanted()?);
    }
    Ok(stamp)
}

/// The package and its version.
fn source_version() -> Result<String, String> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${Package} ${Version}", PACKAGE]);
    workspace::output(&mut query).map_err(|reason| {
        format!("{reason}; install the kernel's source: `sudo apt-get install {PACKAGE}`")
    })
}

struct Built {
    release: String,
    /// As the manifest has it.
    image: Value,
}

impl Variant {
    /// Its fragments, one after the other.
    fn wanted(&self) -> Result<String, String> {
        let directory = workspace::root().join("guest/kernel");
        let read = |name: &&str| fs_err::read_to_string(directory.join(name)).map_err(text);
        self.fragments.iter().map(read).collect()
    }

    /// Leaves the kernel and its configuration with what is to be published.
    fn build(&self, place: &Place) -> Result<Built, String> {
        let objects = place.work.join(self.name);
        fs_err::create_dir_all(&objects).map_err(text)?;
        let wanted = self.wanted()?;
        let fragment = objects.join("wanted");
        write(&fragment, &wanted)?;
        let make = |target: &str| -> Result<Command, String> {
            let mut make = make(&place.source, &objects)?;
            make.env("KCONFIG_ALLCONFIG", &fragment).arg(target);
            Ok(make)
        };
        run(&mut make("allnoconfig")?)?;
        let config = fs_err::read_to_string(objects.join(".config")).map_err(text)?;
        let refused = not_taken(&wanted, &config);
        if !refused.is_empty() {
            return Err(format!(
                "{PACKAGE} does not take these lines of guest/kernel: {}",
                refused.join(", ")
            ));
        }
        run(make("vmlinux")?.arg(format!("--jobs={}", processors())))?;
        let release = workspace::output(&mut make("kernelrelease")?)?.trim().to_owned();
        let file = format!("{}.vmlinux", self.name);
        let image = place.fresh.join(&file);
        run(Command::new("strip")
            .args(["--strip-all", "-o"])
            .arg(&image)
            .arg(objects.join("vmlinux")))?;
        write(&place.fresh.join(format!("{}.config", self.name)), &config)?;
        let bytes = fs_err::metadata(&image).map_err(text)?.len();
        let image = json!({ "file": file, "bytes": bytes, "sha256": sha256(&image)? });
        Ok(Built { release, image })
    }
}

/// `make` for the kernel, with nothing of the caller's environment in it, and nothing that differs from host to host
/// or from day to day in what it makes.
fn make(source: &Path, objects: &Path) -> Result<Command, String> {
    let mut date = Command::new("date");
    date.env("LC_ALL", "C").args(["--utc", "--reference"]).arg(source.join("Makefile"));
    let mut make = Command::new("make");
    make.env_clear()
        .env("PATH", workspace::variable("PATH").unwrap_or_default())
        .env("LC_ALL", "C")
        .env("KBUILD_BUILD_TIMESTAMP", workspace::output(&mut date)?.trim())
        .env("KBUILD_BUILD_VERSION", "1")
        .env("KBUILD_BUILD_USER", "pyro")
        .env("KBUILD_BUILD_HOST", "pyro")
        // Otherwise it may look for a repository around the source.
        .env("LOCALVERSION", "")
        .args(["--silent", "--directory"])
        .arg(source)
        .arg(format!("O={}", objects.display()));
    Ok(make)
}

/// The lines of `wanted` that `config` does not have, because options they depend on are off or unknown.
fn not_taken<'a>(wanted: &'a str, config: &str) -> Vec<&'a str> {
    let taken = |line: &str| match switched_off(line) {
        // An option that does not exist, or cannot be seen, is off without a line that says so.
        Some(option) => !config.lines().any(|line| line.starts_with(&format!("{option}="))),
        None => config.lines().any(|found| found == line),
    };
    let is_wish = |line: &&str| line.starts_with("CONFIG_") || switched_off(line).is_some();
    wanted.lines().filter(is_wish).filter(|line| !taken(line)).collect()
}

/// `CONFIG_X` of `# CONFIG_X is not set`.
fn switched_off(line: &str) -> Option<&str> {
    line.strip_prefix("# ")?
        .strip_suffix(" is not set")
        .filter(|option| option.starts_with("CONFIG_"))
}

fn sha256(path: &Path) -> Result<String, String> {
    let line = workspace::output(Command::new("sha256sum").arg("--binary").arg(path))?;
    let digest = line.split_whitespace().next();
    digest.map(str::to_owned).ok_or_else(|| "sha256sum prints no digest".to_owned())
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn write(path: &Path, content: &str) -> Result<(), String> {
    fs_err::write(path, content).map_err(text)
}

fn remove(directory: &Path) -> Result<(), String> {
    match fs_err::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(text(error)),
        _ => Ok(()),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn text(error: std::io::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_was_not_taken_is_named() {
        let wanted = "# The machine.\nCONFIG_PCI=y\nCONFIG_NR_CPUS=8\nCONFIG_GONE=y\n";
        let config = "CONFIG_PCI=y\nCONFIG_NR_CPUS=64\n# CONFIG_SMP is not set\n";
        assert_eq!(not_taken(wanted, config), ["CONFIG_NR_CPUS=8", "CONFIG_GONE=y"]);
    }

    #[test]
    fn an_option_that_is_to_be_off_may_be_unknown_but_not_on() {
        let wanted = "# CONFIG_PM is not set\n# CONFIG_SMP is not set\n# CONFIG_GONE is not set\n";
        let config = "# CONFIG_PM is not set\nCONFIG_SMP=y\nCONFIG_SMP_MORE=y\n";
        assert_eq!(not_taken(wanted, config), ["# CONFIG_SMP is not set"]);
    }

    #[test]
    fn no_fragment_contradicts_itself() {
        for variant in &VARIANTS {
            let wanted = variant.wanted().unwrap();
            assert_eq!(not_taken(&wanted, &wanted), [] as [&str; 0], "{}", variant.name);
        }
    }
}
