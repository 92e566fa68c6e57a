"""The public contract: names, parameters, defaults, and the same keys on every surface."""

from __future__ import annotations

import inspect
import json
import typing
from typing import Any

import host
import pytest
from pyro_mcp import (
    VM,
    AsyncPyro,
    AsyncVM,
    Cleanup,
    DoctorReport,
    Environment,
    ExecOutcome,
    NetworkInfo,
    PruneReport,
    PulledEnvironment,
    Pyro,
    ReapReport,
    RunInfo,
    RunList,
    RunLog,
    RunOutcome,
    VMInfo,
    _native,
    _payloads,
)

METHODS = {
    "create_server": [],
    "list_environments": [],
    "pull_environment": ["environment"],
    "inspect_environment": ["environment"],
    "prune_environments": [],
    "create_vm": [],
    "start_vm": ["vm_id"],
    "exec_vm": ["vm_id"],
    "stop_vm": ["vm_id"],
    "delete_vm": ["vm_id"],
    "status_vm": ["vm_id"],
    "network_info_vm": ["vm_id"],
    "reap_expired": [],
    "run_in_vm": [],
}


def parameters(function: Any) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(function).parameters)
    found.pop("self", None)
    return found


@pytest.mark.parametrize("surface", [Pyro, AsyncPyro])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_contract_is_there(surface: type, name: str):
    found = parameters(getattr(surface, name))
    positional = [name for name, parameter in found.items() if parameter.kind is not parameter.KEYWORD_ONLY]
    assert positional == METHODS[name]


@pytest.mark.parametrize(("one", "other"), [(Pyro, AsyncPyro), (VM, AsyncVM)])
def test_waiting_and_asynchronous_surfaces_are_the_same(one: type, other: type):
    def public(surface: type) -> set[str]:
        return {name for name in dir(surface) if not name.startswith("_")} - {"engine"}

    assert public(one) == public(other)
    for name in public(one):
        if callable(getattr(one, name)):
            ours = {key: value.default for key, value in parameters(getattr(one, name)).items()}
            theirs = {key: value.default for key, value in parameters(getattr(other, name)).items()}
            assert ours == theirs, name


@pytest.mark.parametrize("surface", [Pyro, AsyncPyro, VM, AsyncVM])
def test_signatures_repeat_the_defaults_of_the_core(surface: type):
    for name in dir(surface):
        function = getattr(surface, name)
        if name.startswith("_") or not callable(function):
            continue
        for key, parameter in parameters(function).items():
            if key in _native.DEFAULTS and parameter.default is not parameter.empty:
                assert parameter.default == _native.DEFAULTS[key], (name, key)
            if key in {"allow_host_compat", "network", "allow_public", "host_proxy", "host_ca"}:
                assert parameter.default is False
            if key in {"allow_hosts", "allow_cidrs", "deny_hosts", "deny_cidrs", "publish"}:
                assert parameter.default == ()


def test_options_of_2_x_are_taken(tmp_path):
    pyro = Pyro(base_dir=tmp_path / "state", cache_dir=str(tmp_path / "cache"), max_active_vms=7)
    assert pyro.base_dir == tmp_path / "state"
    assert pyro.cache_dir == tmp_path / "cache"
    assert pyro.max_active_vms == 7
    assert not list(tmp_path.iterdir()), "nothing is made before it is needed"


def keys(payload: type, value: Any) -> None:
    """Checks that a dictionary has the keys that its type says."""
    required = typing.get_type_hints(payload).keys()
    assert set(value) <= set(required), set(value) - set(required)
    assert set(payload.__required_keys__) <= set(value)  # type: ignore[attr-defined]


def document(*words: str) -> Any:
    outcome = host.cli(*words)
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)


def test_environments_have_the_keys_of_the_command_line(pyro: Pyro):
    environments = pyro.list_environments()
    names = {environment["name"] for environment in environments}
    assert names == {"debian:12-base", "debian:12", "debian:12-build"}
    listed = document("env", "list", "--json")["environments"]
    assert environments == listed
    for environment in environments:
        keys(Environment, environment)
    inspected = pyro.inspect_environment(host.ENVIRONMENT)
    assert inspected == document("env", "inspect", "--json", host.ENVIRONMENT)
    pulled = pyro.pull_environment(host.ENVIRONMENT)
    assert pulled == document("env", "pull", "--json", host.ENVIRONMENT)
    keys(PulledEnvironment, pulled)


def test_a_prune_has_the_keys_of_the_command_line(tmp_path):
    pruned = Pyro(cache_dir=tmp_path).prune_environments()
    keys(PruneReport, pruned)
    assert pruned.keys() == document("env", "prune", "--json").keys()


def test_a_run_has_the_keys_of_the_command_line(pyro: Pyro):
    ours = pyro.run_in_vm(environment=host.ENVIRONMENT, command="echo hi; echo oh >&2; exit 3")
    outcome = host.cli("run", "--json", host.ENVIRONMENT, "--", "sh", "-c", "echo hi; echo oh >&2; exit 3")
    assert outcome.returncode == 3
    theirs = json.loads(outcome.stdout)
    keys(RunOutcome, ours)
    assert list(ours) == list(theirs)
    for key in set(ours) - {"vm_id", "command", "duration_ms", "cleanup"}:
        assert ours[key] == theirs[key], key
    assert ours["cleanup"] == {"vm_id": ours["vm_id"], "deleted": True, "reason": "run_complete"}


def test_a_vm_has_the_keys_of_the_command_line(pyro: Pyro):
    created = pyro.create_vm(environment=host.ENVIRONMENT, metadata={"task": "42"})
    vm_id = created["vm_id"]
    keys(VMInfo, created)
    assert (created["state"], created["execution_mode"]) == ("created", "pending")
    assert created["metadata"] == {"task": "42"}
    started = pyro.start_vm(vm_id)
    assert started["state"] == "started"
    # Another process of the same user sees the same VM, as the same object.
    assert started == document("vm", "status", "--json", vm_id) == pyro.status_vm(vm_id)
    assert pyro.list_vms() == document("vm", "list", "--json")["vms"]
    network = pyro.network_info_vm(vm_id)
    keys(NetworkInfo, network)
    assert network == document("vm", "network-info", "--json", vm_id)
    ours = pyro.exec_vm(vm_id, command="echo hi")
    theirs = document("vm", "exec", "--json", vm_id, "--", "echo", "hi")
    keys(ExecOutcome, ours)
    assert list(ours) == list(theirs)
    assert ours["cleanup"]["deleted"] is False
    runs = pyro.logs_vm(vm_id)
    keys(RunList, runs)
    for run in runs["runs"]:
        keys(RunInfo, run)
    assert runs == document("vm", "logs", "--json", vm_id)
    log = pyro.logs_vm(vm_id, ours["run_id"])
    keys(RunLog, log)
    assert log == document("vm", "logs", "--json", vm_id, str(ours["run_id"]))
    assert pyro.stop_vm(vm_id)["state"] == "stopped"
    deleted = pyro.delete_vm(vm_id)
    keys(Cleanup, deleted)
    assert deleted == {"vm_id": vm_id, "deleted": True, "reason": "explicit_delete"}
    reaped = pyro.reap_expired()
    keys(ReapReport, reaped)
    assert reaped == document("vm", "reap", "--json")


def test_a_vm_with_a_network_has_the_keys_of_the_command_line(pyro: Pyro, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYRO_NETWORK", "--allow-public --deny-host bad.example")
    created = Pyro().create_vm(
        environment=host.ENVIRONMENT,
        network=True,
        allow_hosts=["a.example"],
        publish=("80",),
        deny_cidrs=["8.8.8.0/24"],
    )
    vm_id = created["vm_id"]
    try:
        keys(VMInfo, created)
        assert created["network_enabled"]
        assert pyro.network_info_vm(vm_id)["published"][0]["host_port"] == 0, "none yet"
        pyro.start_vm(vm_id)
        network = pyro.network_info_vm(vm_id)
        keys(NetworkInfo, network)
        assert network == document("vm", "network-info", "--json", vm_id)
        assert network["guest_ip"] == created["guest_ip"]
        (port,) = network["published"]
        keys(_payloads.PublishedPort, port)
        assert port["host_port"] > 0
        operator, caller = network["policy"]
        keys(_payloads.NetworkPolicy, operator)
        assert (operator["source"], operator["deny"]) == ("PYRO_NETWORK", ["bad.example"])
        assert caller["source"] is None
        assert (caller["allow"], caller["deny"]) == (["a.example"], ["8.8.8.0/24"])
    finally:
        pyro.delete_vm(vm_id)
    pin = Pyro().doctor()["networking"]["pins"][0]
    keys(_payloads.NetworkPinReport, pin)
    assert pin["deny"] == ["bad.example"]


def test_the_doctor_says_the_same(pyro: Pyro):
    report = pyro.doctor()
    assert report["runtime_ok"] is True
    theirs = document("doctor", "--json")
    assert report.keys() == theirs.keys()
    keys(DoctorReport, report)
    keys(_payloads.KVMReport, report["kvm"])
    assert report["fixed"] == []
    for check in report["checks"]:
        keys(_payloads.Check, check)
        assert (check["remedy"] is None) == (check["status"] == "pass")
    keys(_payloads.ConfinementReport, report["confinement"])
    keys(_payloads.GuestKernelReport, report["guest_kernel"])
    keys(_payloads.NetworkingReport, report["networking"])
    keys(_payloads.RuntimeReport, report["runtime"])
    keys(_payloads.Capabilities, report["runtime"]["capabilities"])
