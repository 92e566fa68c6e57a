//! Rules for Markdown files: what they point at exists.

use std::path::{Component, Path, PathBuf};

use super::Finding;
use super::tree::File;
use crate::{reference, workspace};

/// Where the options of `pyro` are declared, one field each.
const ARGUMENTS: [&str; 3] = [
    "crates/pyro-cli/src/arguments.rs",
    "crates/pyro-cli/src/mcp_arguments.rs",
    "crates/pyro-cli/src/network_arguments.rs",
];

/// The documents whose promises name the tests that show them.
const PROMISING: [&str; 2] = ["docs/SPECIFICATION.md", "docs/security.md"];

/// Where the codes of errors are, and the document with a section for each.
const FAILURES: &str = "crates/pyro-protocol/src/failure.rs";
const TROUBLESHOOTING: &str = "docs/troubleshooting.md";

/// Options that clap declares by itself.
const BUILT_IN: [&str; 2] = ["help", "version"];

pub(super) fn check(files: &[File]) -> Vec<Finding> {
    let declaring = files.iter().filter(|file| ARGUMENTS.contains(&&*file.path));
    let declared: String = declaring.map(|file| file.text.as_str()).collect();
    let documents = files.iter().filter(|file| file.has_extension("md"));
    let defines = |test: &str| {
        let definitions = [("rs", format!("fn {test}(")), ("py", format!("def {test}("))];
        definitions.iter().any(|(extension, definition)| {
            files.iter().any(|file| file.has_extension(extension) && file.text.contains(definition))
        })
    };
    documents
        .flat_map(|file| {
            let mut findings = check_links(file, &|path| workspace::root().join(path).exists());
            findings.extend(check_options(file, &declared));
            if PROMISING.contains(&&*file.path) {
                findings.extend(check_tests(file, &defines));
            }
            findings
        })
        .collect()
}

/// Finds out whether the reference of the command line is the one that would be written now.
pub(super) fn check_reference(files: &[File]) -> Option<Finding> {
    let help = |file: &File| {
        let name = file.path.strip_prefix(reference::HELPS)?.strip_suffix(".txt")?;
        Some((name.to_owned(), file.text.clone()))
    };
    let helps = files.iter().filter_map(help).collect();
    let problem = match reference::command_line(&helps) {
        Err(problem) => problem,
        Ok(document) => {
            let mut committed = files.iter().filter(|file| file.path == reference::DOCUMENT);
            if committed.any(|file| file.text == document) {
                return None;
            }
            "is not what `cargo xtask docs` writes".to_owned()
        }
    };
    Some(Finding {
        place: reference::DOCUMENT.to_owned(),
        problem,
        reason: "who looks an option up there finds what `pyro` has",
    })
}

/// Finds codes of errors on which the document on troubles says nothing.
pub(super) fn check_error_codes(files: &[File]) -> Vec<Finding> {
    let text = |path: &str| files.iter().find(|file| file.path == path).map(|file| &*file.text);
    let (Some(failures), Some(document)) = (text(FAILURES), text(TROUBLESHOOTING)) else {
        return Vec::new();
    };
    let codes = failures.lines().filter_map(|line| line.split_once("=> \"")?.1.strip_suffix("\","));
    let has_section = |code: &str| document.lines().any(|line| line == format!("## {code}"));
    codes
        .filter(|code| !has_section(code))
        .map(|code| Finding {
            place: TROUBLESHOOTING.to_owned(),
            problem: format!("has no section `{code}`"),
            reason: "who sees an error looks its code up there",
        })
        .collect()
}

fn check_links(file: &File, exists: &dyn Fn(&Path) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in prose(&file.text) {
        for target in link_targets(line) {
            let path = target.split('#').next().unwrap_or_default();
            let is_foreign = target.contains("://") || target.starts_with("mailto:");
            if path.is_empty() || is_foreign || exists(&resolve(file.directory(), path)) {
                continue;
            }
            findings.push(Finding {
                place: format!("{}:{number}", file.path),
                problem: format!("links to `{target}`, which does not exist"),
                reason: "a reader who follows a dead link trusts the rest less",
            });
        }
    }
    findings
}

fn check_options(file: &File, declared: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for option in options_of_pyro(line) {
            let field = format!("{}:", option.replace('-', "_"));
            let mut fields =
                declared.lines().map(|line| line.trim().trim_start_matches("pub(crate) "));
            let is_known =
                BUILT_IN.contains(&option.as_str()) || fields.any(|line| line.starts_with(&field));
            if !is_known {
                findings.push(Finding {
                    place: format!("{}:{}", file.path, index + 1),
                    problem: format!("shows `--{option}`, which `pyro` does not know"),
                    reason: "every command in the documents works when it is copied",
                });
            }
        }
    }
    findings
}

/// Finds names of tests, which are whole sentences in backticks, that are not defined anywhere.
fn check_tests(file: &File, defines: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let is_test = |word: &&str| {
        let is_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
        word.chars().all(is_name) && word.matches('_').count() >= 3
    };
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let quoted = line.split('`').skip(1).step_by(2);
        for test in quoted.filter(is_test).filter(|test| !defines(test)) {
            findings.push(Finding {
                place: format!("{}:{}", file.path, index + 1),
                problem: format!("names the test `{test}`, which does not exist"),
                reason: "a promise without its test is a wish",
            });
        }
    }
    findings
}

/// The lines outside fenced code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
            return None;
        }
        (!is_code).then_some((index + 1, line))
    })
}

/// The targets of `[text](target)`.
fn link_targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

fn resolve(directory: &Path, link: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for component in directory.join(link).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path
}

/// The long options on a line with a `pyro` command; what follows ` -- ` is the guest's.
fn options_of_pyro(line: &str) -> Vec<String> {
    let commands = ["run", "env", "doctor", "completions"];
    let start = commands.iter().filter_map(|name| line.find(&format!("pyro {name}"))).min();
    let Some(start) = start else { return Vec::new() };
    let command = line[start..].split(" -- ").next().unwrap_or_default();
    command
        .split([' ', '`', '[', ']', '=', '|', '(', ')', ',', '.', ';'])
        .filter_map(|word| word.strip_prefix("--"))
        .filter(|option| option.starts_with(|letter: char| letter.is_ascii_lowercase()))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> File {
        File { path: "docs/a.md".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_dead_link_is_found_where_it_is() {
        let file = document("[up](../README.md)\n[here](b.md#part) [web](https://x.example)\n");
        let exists = |path: &Path| path == Path::new("README.md");
        let findings = check_links(&file, &exists);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].place, "docs/a.md:2");
    }

    #[test]
    fn code_is_not_searched_for_links() {
        let file = document("```\nlist[0](missing)\n```\n");
        assert!(check_links(&file, &|_| false).is_empty());
    }

    #[test]
    fn an_option_that_pyro_lacks_is_found() {
        let file = document("pyro run --mem-mib 512 --memory 2 debian:12 -- git --version\n");
        let findings = check_options(&file, "    pub(crate) mem_mib: i64,\n");
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].problem.contains("--memory"));
    }

    #[test]
    fn a_promise_without_its_test_is_found() {
        let file = document("| fast | `every_boot_is_fast_enough` |\n| `mem_mib` | `a_b_c_d` |\n");
        let findings = check_tests(&file, &|test| test == "a_b_c_d");
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].place, "docs/a.md:1");
    }

    #[test]
    fn a_reference_that_is_not_the_one_that_would_be_written_is_found() {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let help = file(&format!("{}pyro.txt", reference::HELPS), "Usage: pyro\n");
        let helps = [("pyro".to_owned(), help.text.clone())].into();
        let document = reference::command_line(&helps).unwrap();
        let current = file(reference::DOCUMENT, &document);
        assert_eq!(check_reference(&[help, current]), None);
        let changed = file(&format!("{}pyro.txt", reference::HELPS), "Usage: pyro now\n");
        assert!(check_reference(&[changed, file(reference::DOCUMENT, &document)]).is_some());
    }

    #[test]
    fn an_error_code_without_a_section_is_found() {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let failures =
            file(FAILURES, "    Self::NoSpace => \"no_space\",\n    Self::A => \"a_b\",\n");
        let findings = check_error_codes(&[failures, file(TROUBLESHOOTING, "## no_space\n")]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].problem.contains("`a_b`"));
    }

    #[test]
    fn options_of_other_programs_are_none_of_ours() {
        assert!(options_of_pyro("cargo build --release --package pyro-cli").is_empty());
        assert_eq!(options_of_pyro("`pyro env prune --all`."), ["all"]);
    }
}
