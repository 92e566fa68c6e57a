//! What the operator of a server allows. No call can widen it, and each refusal says so: a model has to know that
//! asking again with other words does not help.

use pyro_core::{
    ActiveVmsMax, BeyondPin, EnvironmentName, ErrorKind, HostCompat, MemoryMib, Network,
    NetworkPin, PinOptions, PyroError, TimeToLive, Timeout, VcpuCount, VmInfo, VmRequest,
};

/// Limits within the core's own, by default those.
#[derive(Debug, Clone)]
pub struct Pins {
    /// The environments that calls may use; `None` for the whole catalog.
    pub environments: Option<Vec<EnvironmentName>>,
    pub vcpu_count_max: VcpuCount,
    pub memory_max: MemoryMib,
    pub time_to_live_max: TimeToLive,
    pub timeout_max: Timeout,
    /// How many VMs there may be, and how many one-shot runs at once; `None` for what the core is configured for.
    pub active_vms_max: Option<ActiveVmsMax>,
    /// What networks calls may ask for, see [`Pins::network`].
    pub network: NetworkPin,
    /// Whether a call may ask for a command to run on the host where no VM can be had.
    pub host_compat: HostCompat,
}

impl Pins {
    /// The longest time-out where the operator says nothing: no VM lives longer.
    pub const TIMEOUT_SECONDS_MAX_DEFAULT: u32 = TimeToLive::MAX_SECONDS;

    /// What calls' networks reach: what the rules say, or public addresses where there are none. Whoever calls is a
    /// model, which does what texts say that it reads; private networks and the host's own services are for the
    /// operator to open.
    pub fn network(options: &PinOptions) -> Result<NetworkPin, PyroError> {
        NetworkPin::new("pyro mcp serve", options).map(NetworkPin::or_public)
    }
}

impl Default for Pins {
    fn default() -> Self {
        const VALID: &str = "the core's own maximum is allowed";
        Self {
            environments: None,
            vcpu_count_max: VcpuCount::new(VcpuCount::MAX.into()).expect(VALID),
            memory_max: MemoryMib::new(MemoryMib::MAX.into()).expect(VALID),
            time_to_live_max: TimeToLive::from_seconds(TimeToLive::MAX_SECONDS.into())
                .expect(VALID),
            timeout_max: Timeout::from_seconds(Self::TIMEOUT_SECONDS_MAX_DEFAULT.into())
                .expect(VALID),
            active_vms_max: None,
            network: Self::network(&PinOptions::default()).expect(VALID),
            host_compat: HostCompat::Forbidden,
        }
    }
}

impl Pins {
    /// The environments that calls may use.
    pub(crate) fn environments(&self) -> Vec<EnvironmentName> {
        EnvironmentName::all().filter(|name| self.allows(*name)).collect()
    }

    pub(crate) fn allows(&self, environment: EnvironmentName) -> bool {
        self.environments.as_ref().is_none_or(|allowed| allowed.contains(&environment))
    }

    /// Fails with `invalid_input` where the request goes beyond a pin.
    pub(crate) fn check_vm(&self, request: &VmRequest) -> Result<(), PyroError> {
        if !self.allows(request.environment) {
            let allowed: Vec<_> = self.environments().iter().map(ToString::to_string).collect();
            let name = request.environment;
            let message = format!(
                "environment '{name}' is not allowed; expected one of: {}",
                allowed.join(", ")
            );
            return Err(refused(message, "--allow-environment"));
        }
        let count = u64::from(request.vcpu_count.get());
        at_most("vcpu_count", count, self.vcpu_count_max.get().into(), "--max-vcpu-count")?;
        let mib = u64::from(request.memory.get());
        at_most("mem_mib", mib, self.memory_max.get().into(), "--max-mem-mib")?;
        let seconds = request.time_to_live.get().as_secs();
        let seconds_max = self.time_to_live_max.get().as_secs();
        at_most("ttl_seconds", seconds, seconds_max, "--max-ttl-seconds")?;
        let Network::On(network) = &request.network else { return Ok(()) };
        self.network.check(network).map_err(|beyond| match beyond {
            BeyondPin::Network => refused("network must be false".to_owned(), "--no-network"),
            BeyondPin::Publish => refused("publish must be empty".to_owned(), "--no-publish"),
        })
    }

    /// Fails with `invalid_input` for a VM that no call could have made: somebody else's, made by other means.
    pub(crate) fn check_existing(&self, vm: &VmInfo) -> Result<(), PyroError> {
        let of_vm =
            |failure: PyroError| failure.context(format!("vm '{}' is out of reach", vm.vm_id));
        let allowed = self.environments();
        if !allowed.iter().any(|name| name.as_str() == vm.environment) {
            let message = format!("environment '{}' is not allowed", vm.environment);
            return Err(of_vm(refused(message, "--allow-environment")));
        }
        let count = u64::from(vm.vcpu_count);
        at_most("vcpu_count", count, self.vcpu_count_max.get().into(), "--max-vcpu-count")
            .map_err(of_vm)?;
        let mib = u64::from(vm.mem_mib);
        at_most("mem_mib", mib, self.memory_max.get().into(), "--max-mem-mib").map_err(of_vm)?;
        if !self.network.admits(vm) {
            return Err(of_vm(
                PyroError::new(
                    ErrorKind::InvalidInput,
                    "its network reaches more than the operator of this server allows",
                )
                .hint("make one with vm_create: no call can change it"),
            ));
        }
        Ok(())
    }

    /// Fails with `invalid_input` for a time-out that is too long.
    pub(crate) fn check_timeout(&self, timeout: Timeout) -> Result<(), PyroError> {
        let (seconds, max) = (timeout.get().as_secs_f64(), self.timeout_max.get().as_secs_f64());
        at_most("timeout_seconds", seconds, max, "--max-timeout-seconds")
    }

    /// Fails with `invalid_input` where nothing may run on the host.
    pub(crate) fn check_host_compat(&self, wanted: HostCompat) -> Result<(), PyroError> {
        match (wanted, self.host_compat) {
            (HostCompat::Allowed, HostCompat::Forbidden) => Err(PyroError::new(
                ErrorKind::InvalidInput,
                "allow_host_compat must be false: the operator of this server did not set \
                 `--allow-host-compat`",
            )
            .hint("leave it out: the command then runs in a VM, or not at all")),
            (HostCompat::Allowed | HostCompat::Forbidden, _) => Ok(()),
        }
    }

    /// The core's refusal of one more VM, for whoever can only delete some: the core tells how to allow more.
    pub(crate) fn explain(&self, mut failure: PyroError) -> PyroError {
        if failure.kind != ErrorKind::TooManyVms {
            return failure;
        }
        if let Some(max) = self.active_vms_max {
            let option = format!("--max-active-vms {}", max.get());
            failure = failure.cause(format!("the operator of this server set `{option}`"));
            failure.hints = vec!["vm_delete those that you made and no longer need".to_owned()];
        }
        failure
    }
}

fn at_most<T: Copy + PartialOrd + std::fmt::Display>(
    name: &str,
    value: T,
    max: T,
    option: &str,
) -> Result<(), PyroError> {
    if value <= max {
        return Ok(());
    }
    let message = format!("{name} must be at most {max}, not {value}");
    Err(refused(message, &format!("{option} {max}")))
}

fn refused(message: String, option: &str) -> PyroError {
    PyroError::new(ErrorKind::InvalidInput, message)
        .cause(format!("the operator of this server set `{option}`"))
        .hint("stay within it: no call can change it")
}

#[cfg(test)]
mod tests {
    use pyro_core::{
        AuthoredPolicy, EgressPolicy, EgressRule, NetworkOptions, NetworkSpec, PolicyAuthor,
    };

    use super::*;

    fn request() -> VmRequest {
        VmRequest {
            environment: pyro_core::parse_environment("debian:12").unwrap(),
            vcpu_count: VcpuCount::new(2).unwrap(),
            memory: MemoryMib::new(2048).unwrap(),
            time_to_live: TimeToLive::from_seconds(600).unwrap(),
            network: network(&["80"]),
        }
    }

    fn network(publish: &[&str]) -> Network {
        let publish = publish.iter().map(|&port| port.to_owned()).collect();
        Network::new(&NetworkOptions { network: true, publish, ..Default::default() }).unwrap()
    }

    fn pinned(options: &PinOptions) -> Pins {
        Pins { network: Pins::network(options).unwrap(), ..Pins::default() }
    }

    #[test]
    fn without_pins_the_limits_are_those_of_the_core() {
        let pins = Pins::default();
        pins.check_vm(&request()).unwrap();
        assert_eq!(pins.environments().len(), EnvironmentName::all().count());
        assert!(pins.check_timeout(Timeout::from_seconds(3600.5).unwrap()).is_err());
    }

    #[test]
    fn a_vm_that_no_call_could_have_made_is_out_of_reach() {
        let vm = VmInfo {
            vm_id: "0123456789ab".to_owned(),
            environment: "debian:12".to_owned(),
            environment_version: "1".to_owned(),
            vcpu_count: 1,
            mem_mib: 1024,
            ttl_seconds: 600,
            created_at: 0.0,
            expires_at: 600.0,
            state: pyro_core::VmState::Started,
            network_enabled: false,
            allow_host_compat: false,
            guest_ip: None,
            tap_name: None,
            execution_mode: pyro_core::ExecutionMode::Guest,
            metadata: std::collections::BTreeMap::new(),
            accelerator: None,
            network: None,
        };
        Pins::default().check_existing(&vm).unwrap();
        let base = pyro_core::parse_environment("debian:12-base").unwrap();
        let pins = [
            Pins { environments: Some(vec![base]), ..Pins::default() },
            Pins { memory_max: MemoryMib::new(512).unwrap(), ..Pins::default() },
        ];
        for pins in pins {
            let error = pins.check_existing(&vm).unwrap_err();
            assert_eq!(error.message, "vm '0123456789ab' is out of reach");
            assert!(error.causes[1].starts_with("the operator of this server set"), "{error:#?}");
        }
        let of_cli = |allow: &[EgressRule]| {
            let policy = EgressPolicy { allow: allow.to_vec(), deny: Vec::new() };
            let policies = vec![AuthoredPolicy { author: PolicyAuthor::Caller, policy }];
            let network = NetworkSpec { policies, published: Vec::new(), resolvers: Vec::new() };
            VmInfo { network_enabled: true, network: Some(network), ..vm.clone() }
        };
        let (public, private) =
            (of_cli(&[]), of_cli(&[EgressRule::Network("10.0.0.0/8".parse().unwrap())]));
        Pins::default().check_existing(&public).unwrap();
        let error = Pins::default().check_existing(&private).unwrap_err();
        let reason = "its network reaches more than the operator of this server allows";
        assert_eq!(error.causes, [reason]);
        let off = pinned(&PinOptions { network: false, ..PinOptions::default() });
        off.check_existing(&public).unwrap_err();
        off.check_existing(&vm).unwrap();
    }

    #[test]
    fn each_refusal_names_the_value_the_limit_and_the_pin() {
        let base = pyro_core::parse_environment("debian:12-base").unwrap();
        let cases = [
            (
                Pins { environments: Some(vec![base]), ..Pins::default() },
                "environment 'debian:12' is not allowed; expected one of: debian:12-base",
                "--allow-environment",
            ),
            (
                Pins { vcpu_count_max: VcpuCount::new(1).unwrap(), ..Pins::default() },
                "vcpu_count must be at most 1, not 2",
                "--max-vcpu-count 1",
            ),
            (
                Pins { memory_max: MemoryMib::new(1024).unwrap(), ..Pins::default() },
                "mem_mib must be at most 1024, not 2048",
                "--max-mem-mib 1024",
            ),
            (
                Pins { time_to_live_max: TimeToLive::from_seconds(60).unwrap(), ..Pins::default() },
                "ttl_seconds must be at most 60, not 600",
                "--max-ttl-seconds 60",
            ),
            (
                pinned(&PinOptions { network: false, ..PinOptions::default() }),
                "network must be false",
                "--no-network",
            ),
            (
                pinned(&PinOptions { publish: false, ..PinOptions::default() }),
                "publish must be empty",
                "--no-publish",
            ),
        ];
        for (pins, message, option) in cases {
            let error = pins.check_vm(&request()).unwrap_err();
            assert_eq!(error.message, message);
            assert_eq!(error.kind, ErrorKind::InvalidInput);
            let cause = format!("the operator of this server set `{option}`");
            assert_eq!(error.causes, [cause]);
        }
    }
}
