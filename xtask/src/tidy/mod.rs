//! `cargo xtask tidy`: the rules of ARCHITECTURE.md that neither compiler nor clippy checks.
//!
//! Each rule is a pure function from what it looks at to what it found wrong, and each finding says
//! why the rule exists.

mod dependencies;
mod documents;
mod sources;
mod tree;

use crate::workspace;

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    /// A path relative to the root, with a line number where there is one.
    place: String,
    problem: String,
    /// Why the rule exists.
    reason: &'static str,
}

pub(crate) fn tidy() -> Result<(), String> {
    let root = workspace::root();
    let files = tree::files(root)?;
    let mut findings = Vec::new();
    let manifests =
        [root.join("Cargo.toml"), workspace::agent_manifest(), workspace::fuzz_manifest()];
    for manifest in manifests {
        let packages = dependencies::packages(&workspace::metadata(&manifest)?)?;
        findings.extend(packages.iter().flat_map(dependencies::check));
    }
    findings.extend(files.iter().flat_map(sources::check));
    findings.extend(sources::check_private_paths(&files, root));
    findings.extend(documents::check(&files));
    findings.extend(documents::check_reference(&files));
    findings.extend(documents::check_error_codes(&files));
    for Finding { place, problem, reason } in &findings {
        println!("{place}: {problem}\n    because {reason}");
    }
    match findings.len() {
        0 => {
            println!("    {} files are tidy", files.len());
            Ok(())
        }
        1 => Err("1 rule is broken".to_owned()),
        count => Err(format!("{count} rules are broken")),
    }
}
