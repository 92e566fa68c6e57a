//! Who may depend on whom: the arrows of ARCHITECTURE.md.

use serde_json::Value;

use super::Finding;

/// Each of our crates, and which of ours it may use. Tests (`dev-dependencies`) are free.
const DIRECTIONS: [(&str, &[&str]); 13] = [
    ("pyro-protocol", &[]),
    ("pyro-network", &["pyro-protocol"]),
    ("pyro-agent", &["pyro-protocol"]),
    ("pyro-qemu", &["pyro-protocol"]),
    ("pyro-environments", &[]),
    ("pyro-supervisor", &["pyro-network", "pyro-protocol", "pyro-qemu"]),
    ("pyro-core", &["pyro-environments", "pyro-protocol", "pyro-qemu", "pyro-supervisor"]),
    ("pyro-mcp-server", &["pyro-core"]),
    ("pyro-cli", &["pyro-core", "pyro-mcp-server"]),
    ("pyro-python", &["pyro-core", "pyro-mcp-server"]),
    ("pyro-vm-tests", &["pyro-protocol"]),
    ("pyro-fuzz", &["pyro-network", "pyro-protocol", "pyro-supervisor"]),
    ("xtask", &[]),
];

/// Everything `pyro-protocol` may use: nothing here does I/O or needs a runtime.
const PROTOCOL_DEPENDENCIES: [&str; 4] = ["ipnet", "postcard", "serde", "thiserror"];

/// Crates of others that only some of ours may use, with the reason.
const RESERVED: [(&str, &[&str], &str); 16] = [
    ("clap", &["pyro-cli", "xtask"], ONLY_THE_CLI),
    ("clap_complete", &["pyro-cli"], ONLY_THE_CLI),
    ("clap_mangen", &["pyro-cli"], ONLY_THE_CLI),
    ("indicatif", &["pyro-cli"], ONLY_THE_CLI),
    ("anstream", &["pyro-cli"], ONLY_THE_CLI),
    ("kvm-ioctls", &["pyro-qemu"], ONLY_THE_PROBE),
    ("kvm-bindings", &["pyro-qemu"], ONLY_THE_PROBE),
    ("rmcp", &["pyro-mcp-server"], ONLY_ITS_SURFACE),
    ("axum", &["pyro-mcp-server"], ONLY_ITS_SURFACE),
    ("hyper", &["pyro-mcp-server", "pyro-cli"], ONLY_ITS_SURFACE),
    ("hyper-util", &["pyro-mcp-server", "pyro-cli"], ONLY_ITS_SURFACE),
    ("tokio-rustls", &["pyro-cli"], ONLY_ITS_SURFACE),
    ("pyo3", &["pyro-python"], ONLY_ITS_SURFACE),
    ("smoltcp", &["pyro-network"], ONLY_THE_NETWORK),
    ("mio", &["pyro-network"], ONLY_THE_NETWORK),
    (
        "tokio",
        &[
            "pyro-qemu",
            "pyro-environments",
            "pyro-supervisor",
            "pyro-core",
            "pyro-mcp-server",
            "pyro-cli",
            "pyro-python",
            "pyro-vm-tests",
        ],
        "the agent is one synchronous loop in a guest whose every instruction may be emulated",
    ),
];

const ONLY_THE_CLI: &str = "the command line is one surface of several, and the core serves all";
const ONLY_THE_PROBE: &str = "what an accelerator is worth is decided in one place";
const ONLY_ITS_SURFACE: &str = "a surface parses and renders; what it does, the core does";
const ONLY_THE_NETWORK: &str =
    "the guest's packets are taken apart in one place, in a loop that needs no runtime";
const ARROWS: &str = "the crates of ARCHITECTURE.md are layers, and their arrows point one way";

/// One of our packages.
#[derive(Debug, Default)]
pub(super) struct Package {
    name: String,
    /// Everything but `dev-dependencies`.
    dependencies: Vec<String>,
}

/// Reads what `cargo metadata` prints.
pub(super) fn packages(metadata: &Value) -> Result<Vec<Package>, String> {
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    Ok(packages.iter().map(package).collect())
}

fn package(value: &Value) -> Package {
    let dependencies = value["dependencies"].as_array().into_iter().flatten();
    Package {
        name: value["name"].as_str().unwrap_or_default().to_owned(),
        dependencies: dependencies
            .filter(|dependency| dependency["kind"] != "dev")
            .filter_map(|dependency| Some(dependency["name"].as_str()?.to_owned()))
            .collect(),
    }
}

pub(super) fn check(package: &Package) -> Vec<Finding> {
    let Some((_, allowed)) = DIRECTIONS.iter().find(|(name, _)| *name == package.name) else {
        return vec![finding(package, "has no place in the table of directions", ARROWS)];
    };
    let mut findings = Vec::new();
    for dependency in &package.dependencies {
        let dependency = dependency.as_str();
        let is_ours = DIRECTIONS.iter().any(|(name, _)| *name == dependency);
        if is_ours && !allowed.contains(&dependency) {
            findings.push(finding(package, &format!("must not depend on `{dependency}`"), ARROWS));
        }
        let reserved = RESERVED.iter().find(|(name, ..)| *name == dependency);
        if let Some((_, users, reason)) = reserved
            && !users.contains(&package.name.as_str())
        {
            let problem = format!("must not use `{dependency}`, which is for {}", users.join(", "));
            findings.push(finding(package, &problem, reason));
        }
        if package.name == "pyro-protocol" && !PROTOCOL_DEPENDENCIES.contains(&dependency) {
            let problem = format!("must not use `{dependency}`");
            let reason = "the protocol does no I/O and knows no async runtime";
            findings.push(finding(package, &problem, reason));
        }
    }
    findings
}

fn finding(package: &Package, problem: &str, reason: &'static str) -> Finding {
    Finding { place: package.name.clone(), problem: problem.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(name: &str, dependencies: &[&str]) -> Vec<String> {
        let dependencies = dependencies.iter().map(|&name| name.to_owned()).collect();
        let package = Package { name: name.to_owned(), dependencies };
        check(&package).into_iter().map(|finding| finding.problem).collect()
    }

    #[test]
    fn an_arrow_against_the_direction_is_found() {
        assert_eq!(
            problems("pyro-environments", &["serde", "pyro-qemu"]),
            ["must not depend on `pyro-qemu`"]
        );
        assert!(problems("pyro-core", &["pyro-qemu", "tokio"]).is_empty());
    }

    #[test]
    fn a_reserved_crate_in_the_wrong_place_is_found() {
        assert_eq!(
            problems("pyro-core", &["clap"]),
            ["must not use `clap`, which is for pyro-cli, xtask"]
        );
        assert!(!problems("pyro-agent", &["tokio"]).is_empty());
    }

    #[test]
    fn the_protocol_has_a_closed_list() {
        assert_eq!(problems("pyro-protocol", &["fs-err"]), ["must not use `fs-err`"]);
    }

    #[test]
    fn a_new_crate_needs_its_place() {
        assert_eq!(problems("pyro-utils", &[]), ["has no place in the table of directions"]);
    }

    #[test]
    fn dependencies_of_tests_do_not_count() {
        let metadata = serde_json::json!({ "packages": [{
            "name": "pyro-qemu",
            "dependencies": [
                { "name": "clap", "kind": "dev" },
                { "name": "tokio", "kind": null },
            ],
        }]});
        let packages = packages(&metadata).unwrap();
        assert_eq!(packages[0].dependencies, ["tokio"]);
    }
}
