//! VMs restored from templates: alike in nothing that matters, and there whatever became of one.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pyro_vm_tests::{Host, Pyro, Role, copy_cache};
use serde_json::{Value, json};
use tempfile::TempDir;

const VMS: usize = 20;

/// What `--verbose` says on the way to the first VM of its kind.
const MAKING: [&str; 3] = [
    "first use on this host: booting a template\n",
    "first use on this host: warming the template up\n",
    "first use on this host: freezing the template\n",
];

const WAITING: &str = "waiting for another pyro that makes the template\n";
const RESTORED: &str = ", restored from its template)";

/// A cache with the minimal environment, and without templates.
struct Cache(TempDir);

impl Cache {
    fn new() -> Self {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs_err::create_dir_all(parent).unwrap();
        let directory = tempfile::tempdir_in(parent).unwrap();
        copy_cache(directory.path());
        Self(directory)
    }

    fn templates(&self) -> PathBuf {
        self.0.path().join("templates")
    }

    /// The directories of complete templates.
    fn complete(&self) -> Vec<PathBuf> {
        let entries = fs_err::read_dir(self.templates()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.join("state").exists()).collect()
    }

    fn run(&self, host: &Host, options: &[&str], words: &[&str]) -> Pyro {
        let pyro = host.run(&[&["--verbose"], options].concat(), words);
        pyro.variable("PYRO_ENVIRONMENT_CACHE_DIR", self.0.path().to_str().unwrap())
    }

    /// Prunes the cache; returns the directories of templates that are gone.
    fn prune(&self, host: &Host, options: &[&str]) -> Vec<PathBuf> {
        let pyro = host.pyro(&[&["env", "prune", "--json"], options].concat());
        let pyro = pyro.variable("PYRO_ENVIRONMENT_CACHE_DIR", self.0.path().to_str().unwrap());
        let report = pyro.outcome().json();
        let directories = report["deleted_template_dirs"].as_array().unwrap();
        directories.iter().map(|path| path.as_str().unwrap().into()).collect()
    }

    /// Runs a command in a VM that must be restored; returns what was said on the way.
    fn restored(&self, host: &Host, options: &[&str]) -> String {
        let outcome = self.run(host, options, &["echo", "hi"]).outcome();
        assert_eq!(outcome.success(), "hi\n");
        assert!(outcome.stderr.contains(RESTORED), "{}", outcome.stderr);
        outcome.stderr
    }
}

#[test]
fn twenty_vms_restored_at_once_share_nothing() {
    let host = Host::for_vms(VMS);
    host.shell("true");
    let script = "
        echo mine >/root/$0; echo $0 >/dev/shm/$0; echo ready; read go
        ls /root /dev/shm
        cat /etc/machine-id; hostname; cat /proc/sys/kernel/random/boot_id
        od -An -tx1 -N16 /dev/urandom; od -An -tx1 -N16 /dev/random";
    let mut vms: Vec<_> = (0..VMS)
        .map(|number| {
            let name = format!("file-{number}");
            let pyro = host.run(&["--verbose", "--mem-mib", "256"], &["sh", "-ec", script, &name]);
            (name, pyro.start())
        })
        .collect();
    for (_, vm) in &vms {
        vm.wait_for_stdout("ready\n");
    }
    // Only now, when all of them have written, does any of them look.
    for (_, vm) in &mut vms {
        vm.send("go\n");
    }
    let mut identities = HashSet::new();
    for (name, vm) in vms {
        let outcome = vm.outcome();
        assert!(outcome.stderr.contains(RESTORED), "{}", outcome.stderr);
        let files = format!("ready\n/dev/shm:\n{name}\n\n/root:\n{name}\n");
        let own = outcome.success().strip_prefix(&files).expect("its own files and no others");
        assert_eq!(own.lines().count(), 5, "{own}");
        for line in own.lines() {
            assert!(identities.insert(line.to_owned()), "{line} was seen before");
        }
    }
}

#[test]
fn vms_of_one_template_share_the_memory_that_they_do_not_write() {
    let host = Host::for_vms(2);
    let script = ["sh", "-c", "echo ready; read go"];
    // One after the other: the second finds the memory with the first, long after that was restored.
    let vms = [(); 2].map(|()| {
        let vm = host.run(&[], &script).start();
        vm.wait_for_stdout("ready\n");
        vm
    });
    let frozen =
        vms.each_ref().map(|vm| vm.process(Role::Qemu).mapped_file("/memfd:pyro-template-"));
    assert_eq!(frozen[0], frozen[1]);
    for mut vm in vms {
        vm.send("go\n");
        vm.outcome().success();
    }
}

#[test]
fn a_damaged_template_is_made_anew() {
    let (host, cache) = (Host::new(), Cache::new());
    cache.restored(&host, &[]);
    let [template] = &cache.complete()[..] else { panic!("one template") };
    for part in ["memory", "scratch", "state"] {
        let file = fs_err::OpenOptions::new().read(true).write(true).open(template.join(part));
        let file = file.unwrap().into_file();
        let middle = file.metadata().unwrap().len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, middle).unwrap();
        file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
        let said = cache.restored(&host, &[]);
        assert!(said.contains(MAKING[0]), "{part}: {said}");
    }
    assert!(!cache.restored(&host, &[]).contains(MAKING[0]));
}

#[test]
fn another_shape_has_another_template() {
    let (host, cache) = (Host::new(), Cache::new());
    for (options, templates) in [(["--mem-mib", "256"], 1), (["--mem-mib", "512"], 2)] {
        cache.restored(&host, &options);
        assert_eq!(cache.complete().len(), templates);
    }
    assert!(!cache.restored(&host, &["--mem-mib", "256"]).contains(MAKING[0]));
}

#[test]
fn a_network_has_another_template() {
    let (host, cache) = (Host::new(), Cache::new());
    let kinds: [(&[&str], usize); 2] = [(&[], 1), (&["--network"], 2)];
    for (options, templates) in kinds {
        cache.restored(&host, options);
        assert_eq!(cache.complete().len(), templates);
    }
    assert!(!cache.restored(&host, &[]).contains(MAKING[0]));
}

#[test]
fn a_killed_maker_leaves_nothing_half_done() {
    let (host, cache) = (Host::new(), Cache::new());
    for moment in MAKING {
        let running = cache.run(&host, &["--json"], &["true"]).start();
        running.wait_for_stderr(moment);
        running.process(Role::Supervisor).kill();
        let error = running.outcome_after_a_kill().json_error();
        assert_eq!(error["code"], "vm_lost", "{error:#}");
        assert_eq!(cache.complete(), Vec::<PathBuf>::new());
    }
    let said = cache.restored(&host, &[]);
    assert!(said.contains(MAKING[0]), "{said}");
    let partial = fs_err::read_dir(cache.templates().join("partial")).unwrap();
    assert_eq!(partial.count(), 0);
}

#[test]
fn one_process_makes_the_template_and_the_others_wait() {
    let (host, cache) = (Host::for_vms(3), Cache::new());
    let maker = cache.run(&host, &[], &["true"]).start();
    maker.wait_for_stderr(MAKING[0]);
    let others = [(); 2].map(|()| cache.run(&host, &[], &["true"]).start());
    maker.outcome().success();
    for other in others {
        let outcome = other.outcome();
        outcome.success();
        assert!(outcome.stderr.contains(WAITING), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains(MAKING[0]), "{}", outcome.stderr);
    }
    assert_eq!(cache.complete().len(), 1);
}

#[test]
fn a_vm_is_booted_where_templates_cannot_be_kept() {
    let (host, cache) = (Host::new(), Cache::new());
    fs_err::write(cache.templates(), "no directory").unwrap();
    let outcome = cache.run(&host, &["--json"], &["echo", "hi"]).outcome();
    let warning = "warning: the VM was booted instead of restored from a template";
    assert!(outcome.stderr.contains(warning), "{}", outcome.stderr);
    let document = outcome.json();
    assert_eq!((&document["stdout"], &document["vm_start"]), (&json!("hi\n"), &json!("booted")));
    let reason = document["restore_failure"].as_str().unwrap();
    assert!(reason.starts_with("cannot use the store of templates: "), "{reason}");
    assert!(outcome.stderr.contains(reason), "{}", outcome.stderr);
}

#[test]
fn a_vm_that_is_to_be_booted_is_no_failure() {
    let pyro = Host::new().run(&["--json"], &["true"]).variable("PYRO_START", "boot");
    let document = pyro.outcome().json();
    assert_eq!(
        (&document["vm_start"], &document["restore_failure"]),
        (&json!("booted"), &Value::Null)
    );
}

#[test]
fn pruning_takes_templates_and_leaves_vms_and_makers_alone() {
    let (host, cache) = (Host::for_vms(2), Cache::new());
    let script = ["sh", "-c", "echo ready; read go; head -c 100000 /bin/bash | wc -c"];
    let mut vm = cache.run(&host, &[], &script).start();
    vm.wait_for_stdout("ready\n");
    let used = cache.complete();
    let maker = cache.run(&host, &["--mem-mib", "512"], &["true"]).start();
    maker.wait_for_stderr(MAKING[0]);

    // The environment of a running VM stays, so its templates do, until everything is to go.
    assert_eq!(cache.prune(&host, &[]), Vec::<PathBuf>::new());
    assert_eq!(cache.prune(&host, &["--all"]), used);

    vm.send("go\n");
    assert_eq!(vm.outcome().success(), "ready\n100000\n");
    let outcome = maker.outcome();
    outcome.success();
    assert!(outcome.stderr.contains(RESTORED), "{}", outcome.stderr);
    assert_eq!(cache.complete().len(), 1);
}
