//! What a command finds in the guest, on every accelerator of the host.

use std::time::SystemTime;

use pyro_vm_tests::{Host, accelerators};

/// Runs a script that fails by itself on whatever is not as it should be, and gives what it prints.
fn on_every_accelerator(options: &[&str], script: &str) -> Vec<String> {
    let host = Host::new();
    let run = |accelerator: &&str| {
        let pyro = host.run(options, &["sh", "-exc", script]);
        pyro.variable("PYRO_ACCELERATOR", accelerator).outcome().success().to_owned()
    };
    accelerators().iter().map(run).collect()
}

#[test]
fn a_command_gets_the_variables_and_the_directory_that_were_asked_for() {
    let host = Host::new();
    let script = "echo $GREETING from $PWD, $HOME; printf %s \"$EMPTY\" | wc -c";
    let options = ["-e", "GREETING=hi = there", "--env", "EMPTY=", "--cwd", "/tmp"];
    let outcome = host.run(&options, &["sh", "-c", script]).outcome();
    assert_eq!(outcome.success(), "hi = there from /tmp, /root\n0\n");
    let error = host.run(&["--json", "-w", "/nowhere"], &["true"]).outcome().json_error();
    assert_eq!(
        (error["code"].as_str(), error["message"].as_str()),
        (Some("invalid_input"), Some("cannot start the command"))
    );
    let cause = error["causes"][0].as_str().unwrap();
    assert!(cause.starts_with("cannot enter the working directory `/nowhere`"), "{cause}");
    let error = host.run(&["--json", "-w", "tmp"], &["true"]).outcome().json_error();
    assert_eq!(error["message"], "cwd must be an absolute path without a NUL byte, not \"tmp\"");
}

#[test]
fn the_guest_runs_a_kernel_of_its_own() {
    let host = fs_err::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    for guest in on_every_accelerator(&[], "uname -r") {
        assert_ne!(guest, host);
        assert!(guest.contains("-pyro") || guest.contains("cloud-amd64"), "{guest}");
    }
}

#[test]
fn the_command_is_root_in_its_home_with_a_plain_environment() {
    let script = "id -u; pwd; echo $HOME; cat /proc/1/comm; readlink /proc/1/exe || true; env";
    for guest in on_every_accelerator(&[], script) {
        let mut lines = guest.lines();
        assert_eq!(lines.next(), Some("0"));
        assert_eq!(lines.next(), Some("/root"));
        assert_eq!(lines.next(), Some("/root"));
        assert!(!guest.contains("PYRO"), "a variable of the host came along: {guest}");
        assert!(!guest.contains("CARGO"), "a variable of the host came along: {guest}");
    }
}

#[test]
fn the_root_file_system_is_writable_everywhere() {
    on_every_accelerator(
        &[],
        "for directory in / /root /etc /usr/bin /usr/lib /var/lib /opt /home /tmp /var/tmp /run; do
            echo written > $directory/new
            test $(cat $directory/new) = written
        done
        echo changed > /etc/debian_version
        test $(cat /etc/debian_version) = changed
        rm /usr/bin/env
        ! test -e /usr/bin/env
        mv /etc/debian_version /etc/moved
        mkfifo /tmp/fifo && ln -s /tmp/fifo /tmp/link && chown 1000:1000 /tmp/fifo
        test $(stat -c %a /tmp) = 1777",
    );
}

#[test]
fn proc_and_sys_are_the_guests() {
    on_every_accelerator(
        &[],
        "test $(stat -f -c %T /proc) = proc
        test $(stat -f -c %T /sys) = sysfs
        test $(stat -f -c %T /sys/fs/cgroup) = cgroup2fs
        test -d /sys/class/block/vda
        ps -e > /tmp/processes
        grep -q ps /tmp/processes",
    );
}

#[test]
fn devices_are_those_that_programs_expect() {
    on_every_accelerator(
        &[],
        r#"test $(head -c 5 /dev/zero | tr '\0' 0) = 00000
        echo gone > /dev/null
        test -z "$(cat /dev/null)"
        ! echo full > /dev/full
        test $(head -c 16 /dev/random | wc -c) = 16
        test "$(head -c 16 /dev/urandom | od -An -tx1)" != "$(head -c 16 /dev/urandom | od -An -tx1)"
        test -c /dev/tty
        test -c /dev/ptmx
        test $(stat -f -c %T /dev/pts) = devpts
        script --quiet --command tty /dev/null < /dev/null | grep -q /dev/pts/
        echo by number | cat /dev/fd/0
        echo by name | cat /dev/stdin > /dev/stdout
        echo to the other > /dev/stderr
        test $(stat -c %a /dev/shm) = 1777
        echo shared > /dev/shm/file"#,
    );
}

#[test]
fn vcpus_and_memory_are_as_asked_for() {
    let script = "nproc; awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo";
    for guest in on_every_accelerator(&["--vcpu-count", "2", "--mem-mib", "512"], script) {
        let (vcpu_count, memory_mib) = guest.trim().split_once('\n').unwrap();
        assert_eq!(vcpu_count, "2");
        // The kernel keeps some of it for itself.
        let memory_mib: u32 = memory_mib.parse().unwrap();
        assert!((400..=512).contains(&memory_mib), "{memory_mib} MiB");
    }
}

#[test]
fn the_clock_is_the_hosts() {
    let seconds = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let before = seconds();
    for guest in on_every_accelerator(&[], "date +%s") {
        let guest: u64 = guest.trim().parse().unwrap();
        assert!((before..=seconds()).contains(&guest), "{guest}");
    }
}

#[test]
fn a_user_namespace_can_be_made() {
    for guest in on_every_accelerator(&[], "unshare --map-root-user cat /proc/self/uid_map") {
        assert_eq!(guest.split_whitespace().collect::<Vec<_>>(), ["0", "0", "1"]);
    }
}

#[test]
fn two_vms_have_names_and_machine_ids_of_their_own() {
    let script = "hostname; cat /etc/machine-id; cat /proc/sys/kernel/random/boot_id";
    let runs = [(); 2].map(|()| on_every_accelerator(&[], script).remove(0));
    let [first, second] = runs.each_ref().map(|run| run.lines().collect::<Vec<_>>());
    assert!(first[0].starts_with("pyro-"), "{first:?}");
    assert_eq!(first[1].len(), 32, "{first:?}");
    assert_eq!(first.len(), 3);
    for (first, second) in first.iter().zip(second) {
        assert_ne!(*first, second);
    }
}

#[test]
fn the_host_name_resolves_to_the_guest() {
    on_every_accelerator(&[], "getent hosts localhost && getent hosts $(hostname)");
}
