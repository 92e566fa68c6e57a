"""What calls give: plain dictionaries, the same objects as `pyro … --json` prints and MCP tools return."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypedDict

Accelerator = Literal["kvm", "tcg"]
ExecutionMode = Literal["pending", "guest", "host_compat"]
VMState = Literal["created", "started", "stopped"]
StreamName = Literal["stdout", "stderr"]


class Output(NamedTuple):
    """A piece of what a command wrote."""

    stream: StreamName
    data: bytes


class _Installed(TypedDict, total=False):
    install_manifest: str
    rootfs_bytes: int
    kernel_release: str
    damage: str


class Environment(_Installed):
    """An environment of the catalog, and what of it is installed."""

    name: str
    version: str
    description: str
    default_packages: list[str]
    distribution: str
    distribution_version: str
    platform: str
    source_digest: str | None
    compatibility: str
    catalog_version: str
    installed: bool
    cache_dir: str
    install_dir: str | None
    oci_registry: str | None
    oci_repository: str | None
    oci_reference: str | None


class PulledEnvironment(Environment):
    """An environment that is ready."""

    kernel_image: str
    rootfs_image: str
    source: str


class KVMReport(TypedDict):
    """Whether `/dev/kvm` is of use."""

    exists: bool
    readable: bool
    writable: bool
    usable: bool
    reason: str
    instructions_per_second: int | None


class ConfinementReport(TypedDict):
    """What keeps QEMU in."""

    identity: str
    namespaces: str
    landlock_abi: int
    control_group: list[str]
    seccomp: bool
    no_new_privileges: bool
    resource_limits: bool
    refused: list[str]
    remedies: list[str]


class Leftover(TypedDict):
    """What a killed process has left. It does no harm."""

    kind: Literal["vm", "control_group", "template", "build", "spare"]
    path: str
    remedy: str


class NetworkPinReport(TypedDict):
    """What an operator allows."""

    source: str
    network: bool
    publish: bool
    allow: list[str] | None
    """`None` where it restricts no destination."""
    deny: list[str]


class NetworkingReport(TypedDict):
    """Whether guests can have a network."""

    available: bool
    reason: str
    resolvers: list[str]
    """Where guests' names are looked up."""
    pins: list[NetworkPinReport]
    problems: list[str]
    """What is to be corrected before any VM can have a network."""


class Capabilities(TypedDict):
    """What VMs can do on this host."""

    supports_vm_boot: bool
    supports_guest_exec: bool
    supports_guest_network: bool
    reason: str | None


class RuntimeReport(TypedDict):
    """What VMs run on."""

    version: str
    accelerator: Accelerator | None
    qemu: str | None
    qemu_version: str | None
    capabilities: Capabilities
    catalog_version: str
    cache_dir: str
    state_dir: str
    environments: list[Environment]


class GuestKernelReport(TypedDict):
    """Which kernel VMs get on this host, and why."""

    kernel: Literal["pyro", "debian"]
    release: str | None
    """What `uname -r` says in the guest; `None` for Debian's: each environment may have another one."""
    reason: str


class SparesReport(TypedDict):
    """Which spares there are, and what they cost."""

    count: int
    private_bytes: int
    """What they have in the host's memory for themselves."""


class Check(TypedDict):
    """One thing that the doctor looked at."""

    name: str
    status: Literal["pass", "warn", "fail"]
    """It fails where no VM can run, and warns where something could be better."""
    reason: str
    remedy: str | None
    """A command where one helps, otherwise words; `None` where the check passes."""


class RemovedLeftover(TypedDict):
    """What a killed process had left, or a template that no environment could use, and is gone."""

    action: Literal["removed"]
    kind: Literal["vm", "control_group", "template", "build", "spare"]
    path: str


class MadeDirectory(TypedDict):
    """A directory that was missing, and is there."""

    action: Literal["made"]
    path: str


class DoctorReport(TypedDict):
    """The state of this host."""

    platform: str
    runtime_ok: bool
    """VMs can run here."""
    issues: list[str]
    """What is wrong, each with its remedy."""
    checks: list[Check]
    """Everything that was looked at."""
    fixed: list[RemovedLeftover | MadeDirectory]
    """What was put right before; nothing unless that was asked for."""
    leftovers: list[Leftover]
    spares: SparesReport
    kvm: KVMReport
    confinement: ConfinementReport | None
    guest_kernel: GuestKernelReport | None
    """Which kernel VMs boot."""
    networking: NetworkingReport
    runtime: RuntimeReport


class PruneReport(TypedDict):
    """What a prune deleted."""

    deleted_environment_dirs: list[str]
    count: int
    deleted_template_dirs: list[str]
    freed_bytes: int


class VMInfo(TypedDict):
    """A VM, and where it stands. Times are seconds since the epoch."""

    vm_id: str
    environment: str
    environment_version: str
    vcpu_count: int
    mem_mib: int
    ttl_seconds: int
    created_at: float
    expires_at: float
    state: VMState
    network_enabled: bool
    allow_host_compat: bool
    guest_ip: str | None
    tap_name: str | None
    execution_mode: ExecutionMode
    metadata: dict[str, str]
    accelerator: Accelerator | None


class Cleanup(TypedDict):
    """What was done with a VM."""

    vm_id: str
    deleted: bool
    reason: str


class AllowWith(TypedDict, total=False):
    """Arguments that allow a destination, to be merged with those that the VM was made with."""

    allow_hosts: list[str]
    allow_cidrs: list[str]
    allow_public: bool


class NetworkRefusal(TypedDict):
    """Something that the guest wanted to reach, and did not."""

    protocol: Literal["dns", "tcp", "udp", "icmp"]
    destination: str
    """An address with its port, or the name that was looked up."""
    host: str | None
    """The name, where it is known."""
    reason: Literal[
        "denied",
        "not_allowed",
        "host_address",
        "private_address",
        "link_local_address",
        "multicast_address",
        "special_address",
        "too_many_connections",
        "unsupported_protocol",
    ]
    count: int
    message: str
    """What was refused, why, and what can be done about it."""
    allow_with: AllowWith | None
    """`None` where no argument would allow it."""


class _Outcome(TypedDict):
    vm_id: str
    environment: str
    environment_version: str
    command: str
    stdout: str
    """At most 1 MiB, head and tail; bytes that are no UTF-8 are replaced."""
    stderr: str
    exit_code: int
    """0 to 255; 124 on time-out, 128 plus the signal for a killed process."""
    duration_ms: int
    execution_mode: ExecutionMode
    timed_out: bool
    stdout_truncated: bool
    stderr_truncated: bool
    stdout_bytes: int
    """All bytes written, kept or not."""
    stderr_bytes: int
    accelerator: Accelerator | None
    out_of_memory: bool
    network_refusals: list[NetworkRefusal]
    """What the VM's network refused meanwhile, to this command or another that was on; at most 32."""
    network_refusals_left_out: int
    cleanup: Cleanup


class RunOutcome(_Outcome):
    """What became of a command that had a VM to itself."""

    vm_start: Literal["restored", "booted", "spare"] | None
    restore_failure: str | None


class ExecOutcome(_Outcome):
    """What became of a command in a VM that goes on."""

    run_id: int
    """By which `logs_vm` finds all that it wrote."""


class ReapReport(TypedDict):
    """VMs whose time was over."""

    deleted_vm_ids: list[str]
    count: int


class PublishedPort(TypedDict):
    """A port of the guest that the host's programs can reach."""

    host_ip: str
    host_port: int
    """0 for one that is chosen when the VM starts."""
    guest_port: int


class NetworkPolicy(TypedDict):
    """What may be reached, with rules as they are written."""

    author: Literal["caller", "operator"]
    source: str | None
    """Where an operator wrote it."""
    allow: list[str]
    deny: list[str]


class _Network(TypedDict, total=False):
    reason: str
    tap_name: str | None
    guest_ip: str
    gateway_ip: str
    subnet_cidr: str
    mac_address: str
    dns_servers: list[str]
    published: list[PublishedPort]
    policy: list[NetworkPolicy]
    """All of them must allow what the guest wants to reach."""


class NetworkInfo(_Network):
    """What a VM's network is."""

    vm_id: str
    network_enabled: bool
    outbound_connectivity_expected: bool


class RunInfo(TypedDict):
    """A command of a VM, and what became of it."""

    run_id: int
    command: str
    started_at: float
    state: Literal["running", "ended", "failed"]
    exit_code: int | None
    timed_out: bool
    duration_ms: int | None
    failure: str | None
    stdout_bytes: int | None
    stderr_bytes: int | None
    stdout_kept_bytes: int
    stderr_kept_bytes: int


class RunList(TypedDict):
    """The commands of a VM of which something is kept, oldest first."""

    vm_id: str
    runs: list[RunInfo]


class RunLog(RunInfo):
    """All that is kept of a command, as text."""

    vm_id: str
    stdout: str
    stderr: str
