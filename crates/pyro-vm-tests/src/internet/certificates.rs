//! A certificate authority of a test's own, and what it has signed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The file with the authority's certificate.
pub(super) const AUTHORITY: &str = "authority.pem";

/// Makes both in `directory`; gives the file with the servers' certificate and key.
pub(super) fn make(directory: &Path) -> PathBuf {
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let subject = "/CN=an authority of pyro's tests";
    openssl(
        directory,
        &[&["req", "-x509", "-days", "2", "-subj", subject], &new_key[..]].concat(),
        &["-keyout", "authority.key", "-out", AUTHORITY],
    );
    let names = "subjectAltName=DNS:*.example.com,DNS:*.example.org";
    openssl(
        directory,
        &[&["req", "-new", "-subj", "/CN=servers", "-addext", names], &new_key[..]].concat(),
        &["-keyout", "servers.key", "-out", "servers.csr"],
    );
    openssl(
        directory,
        &["x509", "-req", "-in", "servers.csr", "-days", "2", "-copy_extensions", "copy"],
        &["-CA", AUTHORITY, "-CAkey", "authority.key", "-CAcreateserial", "-out", "servers.pem"],
    );
    let both = directory.join("servers.both.pem");
    let [key, certificate] = ["servers.key", "servers.pem"]
        .map(|name| fs_err::read_to_string(directory.join(name)).unwrap());
    fs_err::write(&both, key + &certificate).unwrap();
    both
}

fn openssl(directory: &Path, arguments: &[&str], more: &[&str]) {
    let mut openssl = Command::new("openssl");
    let output = openssl.args(arguments).args(more).current_dir(directory).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{openssl:?}: {complaint}");
}
