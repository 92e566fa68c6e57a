"""What cannot be done is told as a result that a model can read, never as a protocol error."""

from typing import Any

import pytest

from client import Session
from host import BASE, FAILED, Host
from vm import created, started

NO_VM = "0123456789ab"

RUN: dict[str, Any] = {"environment": BASE, "command": "true"}

BAD: list[tuple[str, dict[str, Any], str, list[str]]] = [
    (
        "vm_run",
        RUN | {"environment": "fedora:40"},
        "unknown_environment",
        ["unknown environment 'fedora:40'; expected one of", "debian:12-base"],
    ),
    ("vm_run", RUN | {"vcpu_count": 0}, "invalid_input", ["vcpu_count must be between 1 and 8"]),
    ("vm_run", RUN | {"vcpu_count": 9}, "invalid_input", ["vcpu_count must be between 1 and 8"]),
    ("vm_run", RUN | {"vcpu_count": -1}, "invalid_input", ["vcpu_count must be between 1 and 8"]),
    ("vm_run", RUN | {"vcpu_count": 2**70}, "invalid_input", ["vcpu_count"]),
    ("vm_run", RUN | {"mem_mib": 255}, "invalid_input", ["mem_mib must be between 256 and 32768"]),
    ("vm_run", RUN | {"mem_mib": 32769}, "invalid_input", ["mem_mib must be between", "32769"]),
    ("vm_run", RUN | {"ttl_seconds": 59}, "invalid_input", ["ttl_seconds must be between 60 and"]),
    ("vm_run", RUN | {"ttl_seconds": 3601}, "invalid_input", ["ttl_seconds must be", "3600"]),
    ("vm_run", RUN | {"timeout_seconds": 0}, "invalid_input", ["timeout_seconds must be positive"]),
    (
        "vm_run",
        RUN | {"timeout_seconds": -5},
        "invalid_input",
        ["timeout_seconds must be positive"],
    ),
    ("vm_run", RUN | {"output_bytes_max": -1}, "invalid_input", ["output_bytes_max"]),
    (
        "vm_run",
        RUN | {"output_bytes_max": 131073},
        "invalid_input",
        ["output_bytes_max", "131072"],
    ),
    ("vm_run", RUN | {"command": ""}, "invalid_input", ["command"]),
    ("vm_run", RUN | {"command": "a\0b"}, "invalid_input", ["command"]),
    ("vm_run", RUN | {"vcpu_count": "two"}, "invalid_input", ["vcpu_count"]),
    ("vm_run", RUN | {"vcpu_count": 1.5}, "invalid_input", ["vcpu_count"]),
    ("vm_run", RUN | {"vcpu_count": True}, "invalid_input", ["vcpu_count"]),
    ("vm_run", RUN | {"network": "yes"}, "invalid_input", ["network"]),
    ("vm_run", RUN | {"allow_hosts": ["a.example"]}, "invalid_input", ["allow_hosts", "network"]),
    (
        "vm_run",
        RUN | {"network": True, "allow_cidrs": ["10.0.0.1/8"]},
        "invalid_input",
        ["allow_cidrs"],
    ),
    ("vm_run", RUN | {"env": {"A": 1}}, "invalid_input", ["env"]),
    ("vm_run", RUN | {"env": ["A=1"]}, "invalid_input", ["env"]),
    ("vm_run", RUN | {"env": {"A=B": "1"}}, "invalid_input", ["A=B"]),
    ("vm_run", RUN | {"command": ["ls", "/"]}, "invalid_input", ["command"]),
    ("vm_run", RUN | {"environment": 12}, "invalid_input", ["environment"]),
    ("vm_run", RUN | {"timout_seconds": 5}, "invalid_input", ["timout_seconds"]),
    ("vm_run", {"environment": BASE}, "invalid_input", ["command"]),
    ("vm_run", {}, "invalid_input", []),
    ("vm_create", {"environment": BASE, "metadata": {"a": 1}}, "invalid_input", ["metadata"]),
    ("vm_list_environments", {"verbose": True}, "invalid_input", ["verbose"]),
    ("vm_status", {"vm_id": 7}, "invalid_input", ["vm_id"]),
    ("vm_status", {"vm_id": "../../etc"}, "unknown_vm", ["../../etc"]),
    (
        "vm_exec",
        {"vm_id": NO_VM, "command": "true"},
        "unknown_vm",
        [f"vm '{NO_VM}' does not exist"],
    ),
    *(
        (tool, {"vm_id": NO_VM}, "unknown_vm", [f"vm '{NO_VM}' does not exist"])
        for tool in ("vm_start", "vm_stop", "vm_status", "vm_delete", "vm_network_info")
    ),
]


@pytest.mark.parametrize(
    ("tool", "arguments", "code", "words"),
    BAD,
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else None,
)
@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_what_makes_no_sense_is_refused_with_its_reason(
    session: Session, tool: str, arguments: dict[str, Any], code: str, words: list[str]
) -> None:
    error = (await session.call(tool, **arguments)).error()
    assert error["code"] == code
    for word in words:
        assert word in error["message"]


async def test_a_session_goes_on_after_an_error(session: Session) -> None:
    (await session.call("vm_run", environment="fedora:40", command="true")).error()
    (await session.call("vm_run", environment=BASE)).error()
    (await session.call("vm_run", **RUN)).success()


async def test_what_the_state_of_a_vm_does_not_allow_is_refused(session: Session) -> None:
    async with created(session) as vm_id:
        error = (await session.call("vm_exec", vm_id=vm_id, command="true")).error()
        assert error["code"] == "wrong_vm_state"
        assert vm_id in error["message"]
        (await session.call("vm_start", vm_id=vm_id)).success()
        error = (await session.call("vm_start", vm_id=vm_id)).error()
        assert error["code"] == "wrong_vm_state"


async def test_a_vm_beyond_the_limit_is_refused(session: Session) -> None:
    async with created(session), created(session), created(session), created(session):
        error = (await session.call("vm_create", environment=BASE)).error()
    assert error["code"] == "too_many_vms"
    assert error["message"] == "max active VMs reached (4); delete old VMs first"


async def test_a_vm_that_is_deleted_is_unknown(session: Session) -> None:
    async with started(session) as vm_id:
        pass
    error = (await session.call("vm_exec", vm_id=vm_id, command="true")).error()
    assert error["code"] == "unknown_vm"


@pytest.mark.parametrize("environment", ["fedora:40", BASE])
async def test_an_error_is_the_object_of_the_command_line(
    session: Session, host: Host, environment: str
) -> None:
    """An unknown environment, and a shape that no VM can have."""
    answer = await session.call("vm_run", environment=environment, command="true", mem_mib=1)
    options = ("--json", "--mem-mib", "1", environment, "--", "true")
    assert answer.structured == host.json("run", *options, status=FAILED)
    assert answer.error()["code"] in ("unknown_environment", "invalid_input")
