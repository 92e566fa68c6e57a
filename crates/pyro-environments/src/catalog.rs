//! The curated environments: their names, which are stable identifiers, and
//! the recipe each is built by.

use std::fmt;
use std::str::FromStr;

/// Changes whenever an environment is added, removed or built differently.
pub const CATALOG_VERSION: &str = "3.0.0";

/// One environment of the catalog.
///
/// Whoever changes how it is built raises `version`: an image of another
/// version in the store is stale, and the next pull replaces it.
#[derive(Debug, PartialEq, Eq)]
pub struct EnvironmentDefinition {
    pub name: &'static str,
    pub version: &'static str,
    pub description: &'static str,
    /// What a user may count on, beyond the essential packages.
    pub default_packages: &'static [&'static str],
    pub distribution: &'static str,
    pub distribution_version: &'static str,
    pub platform: &'static str,
    /// The distribution's own name of the release, as its archive uses it.
    pub suite: &'static str,
    /// mmdebstrap's name of the package set to start from.
    pub variant: &'static str,
    /// The packages installed on top of the variant.
    pub include: &'static [&'static str],
    /// Seconds since 1970: the time that files made by the build get, so that
    /// the same packages give the same image.
    pub source_date_epoch: u64,
    /// The package that depends on the newest guest kernel.
    pub kernel_package: &'static str,
    /// Free space that a pull needs at its peak: the kernel, the downloaded
    /// packages, the unpacked tree and the image, measured (267, 428 and
    /// 848 MiB) and rounded up generously.
    pub build_bytes: u64,
    /// Shell commands that touch what most users run first.
    pub warm_up: &'static [&'static str],
    /// Shell commands that a spare has run before it waits, so that the emulator has the code of what most users run
    /// translated. They leave no files behind.
    pub rehearsal: &'static [&'static str],
}

const MIB: u64 = 1 << 20;

/// Ordered by name, because messages and lists show it in this order.
static CATALOG: [EnvironmentDefinition; 3] = [
    EnvironmentDefinition {
        name: "debian:12",
        description: "Debian 12 with git, Python 3 and curl: what an agent reaches for first",
        default_packages: &["bash", "git", "python3", "curl", "ca-certificates"],
        include: &["procps", "netbase", "git", "python3", "curl", "ca-certificates"],
        build_bytes: 550 * MIB,
        rehearsal: WITH_GIT_AND_PYTHON,
        ..DEBIAN_12
    },
    EnvironmentDefinition {
        name: "debian:12-base",
        description: "Minimal Debian 12: shell and core Unix tools",
        default_packages: &["bash", "coreutils"],
        include: &["procps", "netbase"],
        build_bytes: 350 * MIB,
        ..DEBIAN_12
    },
    EnvironmentDefinition {
        name: "debian:12-build",
        description: "Debian 12 with git, Python 3, curl, C and C++ compilers and build tools",
        default_packages: &[
            "bash",
            "git",
            "python3",
            "curl",
            "ca-certificates",
            "gcc",
            "g++",
            "make",
            "cmake",
            "pkg-config",
        ],
        include: &[
            "procps",
            "netbase",
            "git",
            "python3",
            "curl",
            "ca-certificates",
            "build-essential",
            "cmake",
            "pkg-config",
            "patch",
            "file",
            "unzip",
            "xz-utils",
        ],
        build_bytes: 1100 * MIB,
        rehearsal: WITH_GIT_AND_PYTHON,
        ..DEBIAN_12
    },
];

const DEBIAN_12: EnvironmentDefinition = EnvironmentDefinition {
    name: "",
    version: "1.0.0",
    description: "",
    default_packages: &[],
    distribution: "debian",
    distribution_version: "12",
    platform: "linux/amd64",
    suite: "bookworm",
    variant: "minbase",
    include: &[],
    source_date_epoch: 1_686_355_200, // 10 June 2023, the release of Debian 12
    kernel_package: "linux-image-cloud-amd64",
    build_bytes: 0,
    warm_up: &["ls /", "ls /"],
    rehearsal: &["ls /", "sh -c true"],
};

/// Of environments that have them.
const WITH_GIT_AND_PYTHON: &[&str] =
    &["ls /", "sh -c true", "git --version", "python3 -c 'print(6 * 7)'"];

/// Every environment there is, ordered by name.
pub fn catalog() -> &'static [EnvironmentDefinition] {
    &CATALOG
}

/// The name of an environment that exists in the catalog.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EnvironmentName(&'static EnvironmentDefinition);

impl EnvironmentName {
    pub fn all() -> impl Iterator<Item = Self> {
        CATALOG.iter().map(Self)
    }

    pub fn as_str(self) -> &'static str {
        self.0.name
    }

    pub fn definition(self) -> &'static EnvironmentDefinition {
        self.0
    }

    /// The name as a file name: `debian-12-base`.
    pub(crate) fn slug(self) -> String {
        self.0.name.replace(':', "-")
    }
}

impl fmt::Display for EnvironmentName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.name)
    }
}

impl fmt::Debug for EnvironmentName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "EnvironmentName({})", self.0.name)
    }
}

impl FromStr for EnvironmentName {
    type Err = UnknownEnvironment;

    fn from_str(name: &str) -> Result<Self, UnknownEnvironment> {
        Self::all()
            .find(|known| known.as_str() == name)
            .ok_or_else(|| UnknownEnvironment { name: name.to_owned() })
    }
}

/// A name that the catalog does not hold; the text is part of the contract.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown environment '{name}'; expected one of: {}", expected_names())]
pub struct UnknownEnvironment {
    pub name: String,
}

fn expected_names() -> String {
    EnvironmentName::all().map(EnvironmentName::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_is_ordered_by_name() {
        assert!(CATALOG.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn every_name_parses_to_its_own_definition() {
        for definition in catalog() {
            let name: EnvironmentName = definition.name.parse().unwrap();
            assert_eq!(name.definition(), definition);
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_text_of_the_contract() {
        let error = "x".parse::<EnvironmentName>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown environment 'x'; expected one of: debian:12, debian:12-base, debian:12-build"
        );
    }

    #[test]
    fn names_make_distinct_file_names() {
        let slugs: Vec<_> = EnvironmentName::all().map(EnvironmentName::slug).collect();
        assert_eq!(slugs, ["debian-12", "debian-12-base", "debian-12-build"]);
    }

    #[test]
    fn the_build_environment_holds_all_of_the_default_one() {
        let includes = |name: &str| name.parse::<EnvironmentName>().unwrap().definition().include;
        let build = includes("debian:12-build");
        assert!(includes("debian:12").iter().all(|package| build.contains(package)));
    }

    #[test]
    fn the_base_environment_holds_no_python() {
        let base = "debian:12-base".parse::<EnvironmentName>().unwrap();
        assert!(!base.definition().include.iter().any(|package| package.contains("python")));
    }
}
