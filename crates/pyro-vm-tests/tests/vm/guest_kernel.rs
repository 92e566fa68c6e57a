//! The kernels that a VM can have: which one it gets, and that each has what programs need. Everything here runs
//! on every accelerator of the host.

use pyro_vm_tests::{BASE, BUILD, DEFAULT, Host, Outcome, accelerators};

/// Both, by what `PYRO_GUEST_KERNEL` calls them, with what tells them apart in `uname -r`.
const KERNELS: [(&str, &str); 2] = [("pyro", "-pyro"), ("debian", "cloud-amd64")];

/// Runs a script that fails by itself on whatever is not as it should be.
fn run(
    environment: &str,
    kernel: &str,
    accelerator: &str,
    options: &[&str],
    script: &str,
) -> Outcome {
    let host = Host::new();
    let pyro = host.run_in(environment, options, &["sh", "-exc", script]);
    pyro.variable("PYRO_GUEST_KERNEL", kernel).variable("PYRO_ACCELERATOR", accelerator).outcome()
}

/// The same for each kernel, which must not differ in what the script prints.
fn on_both(environment: &str, options: &[&str], script: &str, expected: &str) {
    for accelerator in accelerators() {
        for (kernel, _) in KERNELS {
            let outcome = run(environment, kernel, accelerator, options, script);
            assert_eq!(outcome.success(), expected, "{kernel}, {accelerator}");
        }
    }
}

#[test]
fn each_kernel_can_be_asked_for_with_one_vcpu_and_with_several() {
    for accelerator in accelerators() {
        for (kernel, release) in KERNELS {
            for vcpu_count in ["1", "8"] {
                let options = ["--vcpu-count", vcpu_count];
                let outcome = run(DEFAULT, kernel, accelerator, &options, "uname -r; nproc");
                let (found, cpus) = outcome.success().trim().split_once('\n').unwrap();
                assert!(found.contains(release), "{kernel}: {found}");
                assert_eq!(cpus, vcpu_count, "{kernel}");
            }
        }
    }
}

#[test]
fn the_small_kernel_is_the_default_under_emulation_and_the_doctor_says_so() {
    let host = Host::new();
    let guest = host.run(&[], &["uname", "-r"]).variable("PYRO_ACCELERATOR", "tcg").outcome();
    let hint = "build the kernels first: `cargo xtask guest-kernel`";
    assert!(guest.success().trim().ends_with("-pyro"), "{}; {hint}", guest.success());
    let doctor = host.pyro(&["doctor", "--json"]);
    let report = doctor.variable("PYRO_ACCELERATOR", "tcg").outcome().json();
    assert_eq!(report["guest_kernel"]["kernel"], "pyro", "{report}");
    assert_eq!(report["guest_kernel"]["release"], guest.success().trim());
    let doctor = host.pyro(&["doctor", "--json"]).variable("PYRO_GUEST_KERNEL", "debian");
    assert_eq!(doctor.outcome().json()["guest_kernel"]["kernel"], "debian");
}

#[test]
fn a_kernel_that_there_is_not_is_refused_by_name() {
    let host = Host::new();
    let pyro = host.run(&["--json"], &["true"]).variable("PYRO_GUEST_KERNEL", "small");
    let error = pyro.outcome().json_error();
    assert_eq!(error["code"], "invalid_input");
    assert_eq!(error["message"], "PYRO_GUEST_KERNEL must be auto, pyro or debian, not 'small'");
}

#[test]
fn a_vm_that_was_stopped_boots_the_kernel_that_it_had() {
    for (kernel, release) in KERNELS {
        let host = Host::new();
        let vms = host.vms();
        let create = vms.vm(&["create", BASE]).variable("PYRO_GUEST_KERNEL", kernel);
        let id = create.outcome().success().trim_end().to_owned();
        for _ in 0..2 {
            vms.vm(&["start", &id]).outcome().success();
            let guest = vms.exec(&id, "uname -r").outcome();
            assert!(guest.success().contains(release), "{kernel}: {}", guest.success());
            vms.vm(&["stop", &id]).outcome().success();
        }
        vms.vm(&["delete", &id]).outcome().success();
    }
}

#[test]
fn programs_find_the_system_calls_that_they_take_for_granted() {
    let script = r#"python3 - <<'END'
import ctypes, mmap, os, select, signal, socket, tempfile
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    result = getattr(libc, name)(*arguments)
    assert result >= 0, (name, os.strerror(ctypes.get_errno()))
    return result

def by_number(number, *arguments):
    result = libc.syscall(number, *arguments)
    assert result >= 0, (number, os.strerror(ctypes.get_errno()))
    return result

# inotify sees a file that is made.
watch = call("inotify_init1", 0)
directory = tempfile.mkdtemp()
call("inotify_add_watch", watch, directory.encode(), 0x100)
open(directory + "/new", "w").close()
assert b"new" in os.read(watch, 4096)
# fanotify: FAN_CLASS_NOTIF, FAN_MARK_ADD, FAN_MODIFY.
call("fanotify_init", 0, os.O_RDONLY)
# A child that is traced, as by strace and gdb.
child = os.fork()
if child == 0:
    libc.ptrace(0, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(7)
_, status = os.waitpid(child, 0)
assert os.WIFSTOPPED(status)
call("ptrace", 24, child, 0, 0)
_, status = os.waitpid(child, 0)
assert os.WIFSTOPPED(status)
call("ptrace", 7, child, 0, 0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
# The memory of another process.
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
source, target = ctypes.create_string_buffer(b"words"), ctypes.create_string_buffer(5)
local = Vector(ctypes.addressof(target), 5)
remote = Vector(ctypes.addressof(source), 5)
call("process_vm_readv", os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
assert target.raw == b"words"
# io_uring_setup, userfaultfd, and bpf with an array.
os.close(by_number(425, 4, ctypes.create_string_buffer(120)))
os.close(by_number(323, 0))
array = ctypes.create_string_buffer(
    b"".join(n.to_bytes(4, "little") for n in (2, 4, 4, 1)) + bytes(112))
os.close(by_number(321, 0, array, 128))
# Event sources, queues, shared memory, keys, pidfds.
for name, arguments in (("eventfd", (0, 0)), ("timerfd_create", (1, 0)), ("epoll_create1", (0,)),
                        ("memfd_create", (b"name", 0))):
    os.close(call(name, *arguments))
os.close(os.pidfd_open(os.getpid()))
queue = call("mq_open", b"/queue", os.O_CREAT | os.O_RDWR, 0o600, None)
call("mq_unlink", b"/queue")
call("shmget", 0, 4096, 0o1600)
call("semget", 0, 1, 0o1600)
call("msgget", 0, 0o1600)
by_number(248, b"user", b"name", b"key", 3, -2)
for family, kind in ((socket.AF_INET6, socket.SOCK_DGRAM), (socket.AF_NETLINK, socket.SOCK_RAW),
                     (socket.AF_PACKET, socket.SOCK_RAW), (socket.AF_UNIX, socket.SOCK_SEQPACKET)):
    socket.socket(family, kind).close()
os.setxattr(directory, "user.name", b"value")
assert os.getxattr(directory, "user.name") == b"value"
print("all there")
END"#;
    on_both(DEFAULT, &[], script, "all there\n");
}

#[test]
fn overlays_namespaces_and_control_groups_can_be_made() {
    let script = r"
        mkdir -p /mnt/lower /mnt/merged /mnt/memory
        mount -t tmpfs none /mnt/memory
        mkdir /mnt/memory/upper /mnt/memory/work
        echo below > /mnt/lower/file
        mount -t overlay -o lowerdir=/mnt/lower,upperdir=/mnt/memory/upper,workdir=/mnt/memory/work \
            none /mnt/merged
        echo above > /mnt/merged/file
        cat /mnt/lower/file /mnt/merged/file
        unshare --map-root-user --mount --pid --net --uts --ipc --cgroup --time --fork sh -ec '
            hostname inner
            mount -t tmpfs none /tmp
            mount -t proc none /proc
            cat /proc/1/comm'
        mkdir /sys/fs/cgroup/pyro/nested";
    on_both(BUILD, &[], script, "below\nabove\nsh\n");
}

/// In Debian's kernel they are modules, which environments do not hold.
#[test]
fn images_can_be_mounted_and_swapped_to_with_the_small_kernel() {
    let script = r"
        truncate --size=8M /tmp/image /tmp/swap
        /sbin/mke2fs -q -t ext4 /tmp/image
        mount -o loop /tmp/image /mnt
        echo in the image > /mnt/file
        cat /mnt/file
        device=$(/sbin/losetup --find --show /tmp/swap)
        /sbin/mkswap $device > /dev/null
        /sbin/swapon $device
        /sbin/swapoff $device
        exec 3<> /dev/fuse
        exec 4<> /dev/net/tun";
    for accelerator in accelerators() {
        let outcome = run(BUILD, "pyro", accelerator, &[], script);
        assert_eq!(outcome.success(), "in the image\n", "{accelerator}");
    }
}

#[test]
fn the_programs_of_an_environment_do_their_work() {
    let script = r#"
        exec 2> /dev/null
        git init --quiet repository && cd repository
        git -c user.name=a -c user.email=a@b commit --quiet --allow-empty --message first
        git log --format=%s
        python3 - <<'END'
import multiprocessing, sqlite3
with multiprocessing.Pool(2) as pool:
    print(sum(pool.map(abs, range(-10, 10))))
base = sqlite3.connect("file.db")
base.execute("pragma journal_mode = wal")
base.execute("create table numbers (number)")
with base:
    base.executemany("insert into numbers values (?)", [(n,) for n in range(100)])
print(base.execute("select sum(number) from numbers").fetchone()[0])
END
        mkdir -p package/DEBIAN package/opt
        echo installed > package/opt/file
        printf '%s\n' 'Package: local' 'Version: 1' 'Architecture: all' 'Maintainer: a' \
            'Description: a' > package/DEBIAN/control
        dpkg-deb --build package local.deb > /dev/null
        apt-get --quiet=2 install ./local.deb > /dev/null
        cat /opt/file
        printf '%s\n' '#include <stdio.h>' 'int main(void) { puts("compiled"); }' > main.c
        gcc -O2 -o main main.c
        ./main"#;
    on_both(
        BUILD,
        &["--timeout-seconds", "300"],
        script,
        "first\n100\n4950\ninstalled\ncompiled\n",
    );
}

#[test]
fn a_command_that_takes_all_memory_is_told_from_one_that_fails() {
    for (kernel, _) in KERNELS {
        let host = Host::new();
        let hungry = "python3 -c 'data = []\nwhile True: data.append(bytearray(1 << 24))'";
        let run = host.run_in(DEFAULT, &["--json", "--mem-mib", "256"], &["sh", "-c", hungry]);
        let outcome = run.variable("PYRO_GUEST_KERNEL", kernel).outcome().json();
        assert_eq!(outcome["out_of_memory"], true, "{kernel}: {outcome}");
    }
}

#[test]
fn an_emulated_clock_goes_in_fine_steps() {
    // A clock that only counts timer interrupts goes in steps of 4 ms.
    let script = r"
        grep -o tsc /sys/devices/system/clocksource/clocksource0/current_clocksource
        python3 - <<'END'
import time
readings = {time.monotonic_ns() for _ in range(1000)}
assert len(readings) > 500, len(readings)
END";
    for (kernel, _) in KERNELS {
        let outcome = run(DEFAULT, kernel, "tcg", &[], script);
        assert_eq!(outcome.success(), "tsc\n", "{kernel}");
    }
}
