//! A VM of one process that takes several commands, through the core.

use std::time::Duration;

use pyro_core::{
    AcceleratorChoice, ActiveVmsMax, CaptureLimit, CommandText, Config, ConfinementChoice,
    ErrorKind, ExecOutcome, ExecRequest, GuestKernelChoice, MemoryMib, Network, NetworkSettings,
    Pyro, PyroError, Streams, TimeToLive, Timeout, VcpuCount, Vm, VmRequest, parse_environment,
};
use pyro_vm_tests::{BASE, Host, cache_with, executable};

#[test]
fn commands_of_one_vm_find_what_earlier_ones_left() {
    let host = Host::new();
    block_on(async {
        let mut vm = start(&pyro(&host)).await;
        let first = exec(&mut vm, "echo $$ > /root/pid; sleep 600 & echo $! > /root/child").await;
        assert_eq!(first.unwrap().exit_code, 0);
        // A command that fails is an outcome, and the VM takes the next one.
        assert_eq!(exec(&mut vm, "exit 3").await.unwrap().exit_code, 3);
        let last = exec(&mut vm, "kill -0 $(cat /root/child) && cat /root/pid").await.unwrap();
        assert_eq!((last.exit_code, last.vm_id.as_str()), (0, vm.id()));
        assert!(last.stdout.trim().parse::<u32>().is_ok(), "{last:?}");
        vm.end().await.unwrap();
    });
}

#[test]
fn a_time_out_ends_the_command_and_not_the_vm() {
    let host = Host::new();
    block_on(async {
        let mut vm = start(&pyro(&host)).await;
        let mut request = request("sleep 600");
        request.timeout = Timeout::from_seconds(0.1).unwrap();
        assert!(vm.exec(request, Streams::default()).await.unwrap().timed_out);
        assert_eq!(exec(&mut vm, "echo on").await.unwrap().stdout, "on\n");
        vm.end().await.unwrap();
    });
}

#[test]
fn a_command_does_not_learn_from_its_control_group_how_many_ran_before_it() {
    let host = Host::new();
    block_on(async {
        let mut vm = start(&pyro(&host)).await;
        for _ in 0..3 {
            let group = exec(&mut vm, "cat /proc/self/cgroup").await.unwrap();
            assert_eq!(group.stdout, "0::/pyro/run-1\n");
        }
        // What has processes keeps its own.
        exec(&mut vm, "sleep 600 &").await.unwrap();
        let group = exec(&mut vm, "cat /proc/self/cgroup").await.unwrap();
        assert_eq!(group.stdout, "0::/pyro/run-2\n");
        vm.end().await.unwrap();
    });
}

#[test]
fn a_vm_whose_command_was_given_up_takes_no_other() {
    let host = Host::new();
    block_on(async {
        let pyro = pyro(&host);
        let mut vm = start(&pyro).await;
        let command = exec(&mut vm, "sleep 600");
        tokio::time::timeout(Duration::from_millis(1), command).await.unwrap_err();
        let refused = exec(&mut vm, "true").await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::VmLost, "{refused:?}");
        drop(vm);
        pyro.settle().await;
    });
}

/// The core as this process has it.
pub(crate) fn pyro(host: &Host) -> Pyro {
    Pyro::new(Config {
        cache_dir: cache_with(BASE),
        state_dir: host.state(),
        pyro: executable().to_owned(),
        accelerator: AcceleratorChoice::Auto,
        confinement: ConfinementChoice::Auto,
        guest_kernel: GuestKernelChoice::Auto,
        active_vms_max: ActiveVmsMax::DEFAULT,
        cold_boot: false,
        mirrors: Vec::new(),
        proxy: None,
        tool_path: "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into(),
        terminal_type: None,
        network: NetworkSettings::default(),
    })
}

async fn start(pyro: &Pyro) -> Vm {
    let request = VmRequest {
        environment: parse_environment(BASE).unwrap(),
        vcpu_count: VcpuCount::DEFAULT,
        memory: MemoryMib::DEFAULT,
        time_to_live: TimeToLive::DEFAULT,
        network: Network::Off,
    };
    pyro.launch_vm(&request, &|_| {}).await.unwrap()
}

fn request(command: &str) -> ExecRequest {
    ExecRequest {
        timeout: Timeout::from_seconds(600.0).unwrap(),
        capture: CaptureLimit(4096),
        ..ExecRequest::new(CommandText::new(command).unwrap())
    }
}

async fn exec(vm: &mut Vm, command: &str) -> Result<ExecOutcome, PyroError> {
    vm.exec(request(command), Streams::default()).await
}

pub(crate) fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}
