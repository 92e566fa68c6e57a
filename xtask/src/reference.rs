//! `cargo xtask docs`: the reference of the command line, made from the golden `--help` texts.
//!
//! The tests of `pyro-cli` compare those with what `pyro` says, so this needs no build.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::workspace;

/// The document, relative to the root.
pub(crate) const DOCUMENT: &str = "docs/cli.md";

/// Where the golden texts are: `vm-create.txt` is what `pyro vm create --help` prints.
pub(crate) const HELPS: &str = "crates/pyro-cli/tests/surface/golden/";

/// The text of a program that was called without a command.
const ROOT: &str = "pyro";

const INTRODUCTION: &str = "\
# The command line

What `pyro --help` and its commands say of themselves. `cargo xtask docs` writes this page from those texts, and `cargo xtask
tidy` compares them: change an option's text in `crates/pyro-cli/src`, not here.

Variables, files and exit codes: [configuration](configuration.md). What can go wrong: [troubleshooting](troubleshooting.md).
";

pub(crate) fn docs() -> Result<(), String> {
    let root = workspace::root();
    let mut helps = BTreeMap::new();
    for entry in fs_err::read_dir(root.join(HELPS)).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        helps.insert(name, fs_err::read_to_string(&path).map_err(|error| error.to_string())?);
    }
    let document = command_line(&helps)?;
    fs_err::write(root.join(DOCUMENT), document).map_err(|error| error.to_string())
}

/// The document, from the helps by the names of their files, without `.txt`.
///
/// Fails where a command has no help there, and where a help belongs to no command.
pub(crate) fn command_line(helps: &BTreeMap<String, String>) -> Result<String, String> {
    let mut commands = Vec::new();
    collect(helps, "", ROOT, &mut commands)?;
    let stray = helps.keys().find(|name| !commands.iter().any(|(_, known, _)| known == *name));
    if let Some(name) = stray {
        return Err(format!("`{name}.txt` is the help of no command"));
    }
    let mut document = INTRODUCTION.to_owned();
    document.push('\n');
    for (command, ..) in &commands {
        let anchor = command.replace(' ', "-");
        let depth = "  ".repeat(command.matches(' ').count());
        writeln!(document, "{depth}- [`{command}`](#{anchor})").expect("a `String` takes all");
    }
    for (command, _, help) in &commands {
        write!(document, "\n## {command}\n\n```text\n{help}```\n").expect("a `String` takes all");
    }
    Ok(document)
}

/// Adds the command whose help is called `name`, and those beneath it, in the order in which their
/// parent lists them.
fn collect<'a>(
    helps: &'a BTreeMap<String, String>,
    parent: &str,
    name: &str,
    commands: &mut Vec<(String, String, &'a str)>,
) -> Result<(), String> {
    let (command, key) = match parent {
        "" => (name.to_owned(), name.to_owned()),
        ROOT => (format!("{ROOT} {name}"), name.to_owned()),
        _ => {
            let command = format!("{parent} {name}");
            let key = command[ROOT.len() + 1..].replace(' ', "-");
            (command, key)
        }
    };
    let help = helps.get(&key).ok_or_else(|| format!("`{command}` has no help in {HELPS}"))?;
    commands.push((command.clone(), key, help));
    for child in children(help) {
        collect(helps, &command, child, commands)?;
    }
    Ok(())
}

/// The commands that a help lists.
fn children(help: &str) -> impl Iterator<Item = &str> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    // A description that goes on has more space before it.
    let lines = list.take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    lines.filter(|line| !line.starts_with(' ')).filter_map(|line| line.split(' ').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helps(texts: &[(&str, &str)]) -> BTreeMap<String, String> {
        texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    const PYRO: (&str, &str) =
        ("pyro", "Commands:\n  vm   Use\n       VMs\n  run  Run\n\nOptions:\n");

    #[test]
    fn commands_come_in_the_order_in_which_they_are_listed() {
        let vm = ("vm", "Commands:\n  list  List\n");
        let helps = helps(&[PYRO, vm, ("vm-list", "a list\n"), ("run", "a run\n")]);
        let document = command_line(&helps).unwrap();
        let titles: Vec<_> = document.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(titles, ["## pyro", "## pyro vm", "## pyro vm list", "## pyro run"]);
        assert!(document.contains("## pyro vm list\n\n```text\na list\n```\n"), "{document}");
        assert!(document.contains("    - [`pyro vm list`](#pyro-vm-list)\n"), "{document}");
    }

    #[test]
    fn a_command_without_a_help_is_named() {
        let error = command_line(&helps(&[PYRO, ("vm", "")])).unwrap_err();
        assert!(error.contains("`pyro run`"), "{error}");
    }

    #[test]
    fn a_help_without_a_command_is_named() {
        let helps = helps(&[PYRO, ("vm", ""), ("run", ""), ("walk", "")]);
        let error = command_line(&helps).unwrap_err();
        assert!(error.contains("`walk.txt`"), "{error}");
    }
}
