//! VMs beside each other.

use pyro_vm_tests::Host;

#[test]
fn four_vms_at_once_do_not_see_each_others_files() {
    let host = Host::for_vms(4);
    let mut vms: Vec<_> = ["a", "b", "c", "d"]
        .map(|name| {
            let script = format!(
                "touch /root/{name} /tmp/{name} /dev/shm/{name}; echo ready; read go
                ls /root /tmp /dev/shm"
            );
            (name, host.run(&[], &["sh", "-c", &script]).start())
        })
        .into();
    for (_, vm) in &vms {
        vm.wait_for_stdout("ready\n");
    }
    // Only now, when all of them have written, does any of them look.
    for (_, vm) in &mut vms {
        vm.send("go\n");
    }
    for (name, vm) in vms {
        let seen = format!("ready\n/dev/shm:\n{name}\n\n/root:\n{name}\n\n/tmp:\n{name}\n");
        assert_eq!(vm.outcome().success(), seen);
    }
}

#[test]
fn what_one_vm_wrote_the_next_one_does_not_find() {
    let host = Host::new();
    host.shell("echo mine > /root/file; rm /bin/ls");
    assert_eq!(host.shell("ls /root"), "");
}
