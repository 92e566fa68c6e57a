//! `pyro env` with nothing installed.

use serde_json::{Value, json};

use crate::{keys, pyro};

/// The keys of CONTRACT.md for an entry that is not installed.
const ENTRY_KEYS: [&str; 16] = [
    "cache_dir",
    "catalog_version",
    "compatibility",
    "default_packages",
    "description",
    "distribution",
    "distribution_version",
    "install_dir",
    "installed",
    "name",
    "oci_reference",
    "oci_registry",
    "oci_repository",
    "platform",
    "source_digest",
    "version",
];

fn assert_entry(entry: &Value, name: &str) {
    assert_eq!(keys(entry), ENTRY_KEYS);
    assert_eq!(entry["name"], name);
    assert_eq!(entry["installed"], false);
    for key in ["oci_registry", "oci_repository", "oci_reference", "install_dir"] {
        assert_eq!(entry[key], Value::Null, "{key}");
    }
}

#[test]
fn the_list_has_the_keys_of_the_contract() {
    let list = pyro(&["env", "list", "--json"]).json();
    assert_eq!(keys(&list), ["catalog_version", "environments"]);
    let entries = list["environments"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    for (entry, name) in entries.iter().zip(["debian:12", "debian:12-base", "debian:12-build"]) {
        assert_entry(entry, name);
    }
}

#[test]
fn one_environment_is_shown_with_the_same_keys() {
    assert_entry(&pyro(&["env", "inspect", "--json", "debian:12-base"]).json(), "debian:12-base");
}

#[test]
fn the_list_is_readable_without_json() {
    let outcome = pyro(&["env", "list"]);
    let names: Vec<_> =
        outcome.success().lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(names, ["NAME", "debian:12", "debian:12-base", "debian:12-build"]);
}

#[test]
fn there_is_nothing_to_prune() {
    let report = json!({
        "deleted_environment_dirs": [],
        "count": 0,
        "deleted_template_dirs": [],
        "freed_bytes": 0,
    });
    assert_eq!(pyro(&["env", "prune", "--json"]).json(), report);
    assert_eq!(pyro(&["env", "prune"]).success(), "0 directories deleted, 0 MB freed\n");
}

#[test]
fn prune_deletes_templates_as_well() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().to_str().unwrap();
    let variables = [("PYRO_ENVIRONMENT_CACHE_DIR", cache)];
    let templates = home.path().join("templates");
    // Of an environment that is not installed.
    let template = templates.join("0123456789abcdef".repeat(4));
    for scope in [&[][..], &["--all"]] {
        fs_err::create_dir_all(&template).unwrap();
        fs_err::write(template.join("memory"), "12345678").unwrap();
        let prune = [&["env", "prune", "--json"][..], scope].concat();
        let report = crate::pyro_with(&variables, &prune).json();
        assert_eq!(report["deleted_template_dirs"], json!([template.to_str()]));
        assert_eq!((&report["count"], &report["freed_bytes"]), (&json!(0), &json!(8)));
        assert!(!template.exists());
    }
    fs_err::remove_dir_all(&templates).unwrap();
    fs_err::write(&templates, "no directory").unwrap();
    let failed = crate::pyro_with(&variables, &["env", "prune"]);
    assert!(failed.stderr.contains("cannot delete from the templates at `"), "{failed:?}");
}

#[test]
fn looking_makes_no_files() {
    let home = tempfile::tempdir().unwrap();
    let variables = [("XDG_CACHE_HOME", home.path().to_str().unwrap())];
    for arguments in [&["env", "list"][..], &["env", "inspect", "debian:12"], &["env", "prune"]] {
        crate::pyro_with(&variables, arguments).success();
    }
    assert_eq!(home.path().read_dir().unwrap().count(), 0);
}
