//! QEMU's confinement, seen at a QEMU that runs a VM. What a program in its place can do is tried out
//! by the tests of `pyro-qemu`.

use std::collections::BTreeSet;

use pyro_vm_tests::{Host, Process, Role, Running};

/// A VM that waits for a line.
fn waiting(host: &Host, options: &[&str], start: &str) -> Running {
    let running =
        host.run(options, &["sh", "-c", "echo ready; read go"]).variable("PYRO_START", start);
    let running = running.start();
    running.wait_for_stdout("ready\n");
    running
}

/// What `look` sees at the QEMU of a VM that was restored, of one that was booted, and of one with a network.
fn at_qemu(look: impl Fn(&Process)) {
    let host = Host::new();
    let kinds: [(&[&str], &str); 3] =
        [(&[], "restore"), (&[], "boot"), (&["--network"], "restore")];
    for (options, start) in kinds {
        let mut running = waiting(&host, options, start);
        look(&running.process(Role::Qemu));
        running.send("go\n");
        running.outcome().success();
    }
}

fn read(process: &Process, name: &str) -> String {
    fs_err::read_to_string(process.proc(name)).unwrap()
}

#[test]
fn qemu_has_no_privilege_and_filters_its_system_calls() {
    at_qemu(|qemu| {
        let status = read(qemu, "status");
        let has = |line: &str| assert!(status.contains(line), "{line} is not in {status}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            has(&format!("{set}:\t0000000000000000\n"));
        }
        has("NoNewPrivs:\t1\n");
        // SECCOMP_MODE_FILTER
        has("Seccomp:\t2\n");
        if rustix::process::geteuid().is_root() {
            has("Uid:\t65534\t65534\t65534\t65534\n");
            has("Gid:\t65534\t65534\t65534\t65534\n");
            has("Groups:\t \n");
        } else {
            assert_eq!(read(qemu, "uid_map").split_whitespace().next(), Some("65534"));
        }
    });
}

#[test]
fn qemu_is_alone_in_its_namespaces() {
    at_qemu(|qemu| {
        for name in ["mnt", "pid", "net", "ipc", "uts"] {
            let [its, ours] = [qemu.proc("ns").join(name), format!("/proc/self/ns/{name}").into()];
            assert_ne!(fs_err::read_link(its).unwrap(), fs_err::read_link(ours).unwrap(), "{name}");
        }
        // Its number in the innermost namespace.
        let status = read(qemu, "status");
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
        assert_eq!(numbers.split_whitespace().last(), Some("1"));
        let interfaces = read(qemu, "net/dev");
        let names: Vec<_> =
            interfaces.lines().skip(2).filter_map(|line| line.split_once(':')).collect();
        assert_eq!(names.len(), 1, "{interfaces}");
        assert_eq!(names[0].0.trim(), "lo");
    });
}

#[test]
fn qemu_sees_programs_and_libraries_and_nothing_else() {
    at_qemu(|qemu| {
        let names = |path: &str| -> BTreeSet<_> {
            let entries = fs_err::read_dir(qemu.proc("root").join(path)).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let allowed =
            ["bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "usr"];
        let root = names("");
        assert!(root.iter().all(|name| allowed.contains(&name.as_str())), "{root:?}");
        assert_eq!(names("etc"), BTreeSet::from(["ld.so.cache".to_owned()]));
        let devices = names("dev");
        assert!(devices.iter().all(|name| ["null", "urandom", "kvm"].contains(&name.as_str())));
        for mount in read(qemu, "mountinfo").lines() {
            let options = mount.split(' ').nth(5).unwrap();
            assert!(options.split(',').any(|option| option == "ro"), "{mount}");
            assert!(options.split(',').any(|option| option == "nosuid"), "{mount}");
        }
    });
}

#[test]
fn qemu_has_nothing_open_but_what_it_was_given() {
    at_qemu(|qemu| {
        for entry in fs_err::read_dir(qemu.proc("fd")).unwrap() {
            let file = fs_err::read_link(entry.unwrap().path()).unwrap();
            let file = file.to_str().unwrap();
            let given = ["socket:", "anon_inode:", "pipe:", "/memfd:", "/dev/null", "/dev/urandom"];
            let is_disk = file.ends_with("/rootfs.squashfs") || file.contains("/vms/#");
            let is_firmware = file.starts_with("/usr/");
            assert!(
                is_disk || is_firmware || given.iter().any(|prefix| file.starts_with(prefix)),
                "{file}"
            );
        }
    });
}

#[test]
fn qemu_takes_no_more_of_the_host_than_it_may() {
    at_qemu(|qemu| {
        let limits = read(qemu, "limits");
        let limit = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().to_owned()
        };
        assert_eq!(limit("Max core file size"), "0");
        assert_eq!(limit("Max open files"), "256");
        assert_eq!(limit("Max locked memory"), "0");
        // The scratch disk, and eight gigabytes beside the guest's one.
        assert_eq!(limit("Max file size"), (8_u64 << 30).to_string());
        assert_eq!(limit("Max address space"), (9_u64 << 30).to_string());
    });
}

#[test]
fn where_the_host_refuses_namespaces_vms_run_unless_all_of_it_is_required() {
    let host = Host::new();
    let limited = |choice: &str| {
        let no_namespaces = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$0\" \"$@\"";
        let wrapper = ["unshare", "--user", "--map-root-user", "sh", "-ec", no_namespaces];
        let run = host.run(&["--verbose", "--json"], &["echo", "hi"]).within(&wrapper);
        run.variable("PYRO_CONFINEMENT", choice).outcome()
    };
    let outcome = limited("auto");
    assert_eq!(outcome.exit_code(), 0, "{outcome:#?}");
    assert_eq!(outcome.json()["stdout"], "hi\n");
    let error = limited("required").json_error();
    assert_eq!(error["code"], "host_unsupported", "{error:#}");
    assert!(error["message"].as_str().unwrap().contains("PYRO_CONFINEMENT"), "{error:#}");
    assert!(error["causes"][0].as_str().unwrap().contains("cannot "), "{error:#}");
}
