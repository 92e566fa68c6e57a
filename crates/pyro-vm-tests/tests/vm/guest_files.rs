//! Files of the host that a VM is given: here the certificates that the host trusts.

use pyro_vm_tests::{BASE, Host};

const FILE: &str = "/etc/ssl/certs/pyro-host-ca.pem";

/// See `GuestFile::HOST_FILE_BYTES_MAX`.
const BYTES_MAX: usize = 4 << 20;

#[test]
fn a_file_of_the_host_is_read_whole_at_each_start() {
    let host = Host::new();
    let path = host.directory().join("authorities.pem");
    // More than one message, and not the same all over.
    let long = (0..50_000).fold(String::new(), |text, number| text + &format!("{number}\n"));
    fs_err::write(&path, &long).unwrap();
    let vms = host.vms();
    let create = vms.vm(&["create", BASE, "--network", "--host-ca"]);
    let create = create.variable("SSL_CERT_FILE", path.to_str().unwrap()).outcome();
    let id = create.success().trim_end();
    // The second machine boots from the disk on which the first one's file is.
    for content in [&long, "short\n"] {
        fs_err::write(&path, content).unwrap();
        vms.vm(&["start", id]).outcome().success();
        assert_eq!(vms.exec(id, &format!("cat {FILE}")).outcome().success(), content);
        let around = format!("stat -c %a {FILE}; ls -A /etc/ssl/certs | grep -c partial");
        assert_eq!(vms.exec(id, &around).outcome().text(), "644\n0\n");
        vms.vm(&["stop", id]).outcome().success();
    }
    fs_err::write(&path, vec![b'x'; BYTES_MAX + 1]).unwrap();
    let refused = vms.vm(&["start", "--json", id]).outcome();
    assert_eq!(refused.exit_code(), 1, "{refused:?}");
    let error = &refused.json()["error"];
    assert_eq!(error["code"], "invalid_input", "{error:#}");
    for named in [path.to_str().unwrap(), "4194305", "4194304"] {
        assert!(error.to_string().contains(named), "{named} is not in {error:#}");
    }
    vms.vm(&["delete", id]).outcome().success();
}
