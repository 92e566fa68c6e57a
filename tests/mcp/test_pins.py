"""What the operator of a server does not allow, no call can have."""

from typing import Any

import pytest

from client import Answer
from conftest import Serve
from host import BASE, Host
from vm import created

RUN: dict[str, Any] = {"environment": BASE, "command": "echo hi"}

PINS: list[tuple[list[str], dict[str, Any]]] = [
    (["--allow-environment", BASE], {"environment": "debian:12"}),
    (["--max-vcpu-count", "1"], {"vcpu_count": 2}),
    (["--max-mem-mib", "1024"], {"mem_mib": 1025}),
    (["--max-ttl-seconds", "600"], {"ttl_seconds": 601}),
    (["--max-timeout-seconds", "30"], {"timeout_seconds": 31}),
    (["--no-network"], {"network": True}),
    (["--no-publish"], {"network": True, "publish": ["80"]}),
]


def told(answer: Answer) -> str:
    error = answer.error()
    return " ".join([error["message"], *error["causes"], *error["hints"]])


@pytest.mark.parametrize(("options", "wish"), PINS, ids=lambda value: str(value))
async def test_a_refusal_names_the_pin_and_who_set_it(
    serve: Serve, options: list[str], wish: dict[str, Any]
) -> None:
    async with serve(*options).connect() as session:
        answer = await session.call("vm_run", **(RUN | wish))
        assert options[0] in told(answer)
        assert "operator" in told(answer)
        assert answer.error()["code"] == "invalid_input"
        for pin in (options[0], "operator"):
            assert pin in answer.text
        (await session.call("vm_run", **RUN)).success()


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_a_pin_holds_for_vms_with_a_life_of_their_own(serve: Serve) -> None:
    async with serve("--max-vcpu-count", "1", "--max-timeout-seconds", "30").connect() as session:
        answer = await session.call("vm_create", environment=BASE, vcpu_count=2)
        assert "--max-vcpu-count" in told(answer)
        async with created(session) as vm_id:
            answer = await session.call("vm_exec", vm_id=vm_id, command="true", timeout_seconds=31)
            assert "--max-timeout-seconds" in told(answer)


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_the_number_of_vms_is_pinned(serve: Serve) -> None:
    async with serve("--max-active-vms", "1").connect() as session, created(session):
        answer = await session.call("vm_create", environment=BASE)
        assert answer.error()["code"] == "too_many_vms"
        assert "--max-active-vms" in told(answer)


async def test_nothing_runs_on_the_host_unless_the_operator_allows_it(serve: Serve) -> None:
    async with serve().connect() as session:
        for tool in ("vm_run", "vm_create"):
            wish: dict[str, Any] = RUN if tool == "vm_run" else {"environment": BASE}
            answer = await session.call(tool, **wish, allow_host_compat=True)
            assert "--allow-host-compat" in told(answer)
            assert "operator" in told(answer)
    async with serve("--allow-host-compat").connect() as session:
        outcome = (await session.call("vm_run", **RUN, allow_host_compat=True)).success()
        assert outcome["execution_mode"] == "guest", "a VM can be had, so there is one"


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_only_environments_that_are_allowed_are_offered(serve: Serve) -> None:
    async with serve("--allow-environment", BASE).connect() as session:
        (tool,) = [tool for tool in await session.tools() if tool.name == "vm_run"]
        error = (await session.call("vm_run", environment="debian:12", command="true")).error()
    assert tool.input_schema["properties"]["environment"].get("enum", [BASE]) == [BASE]
    assert BASE in error["message"]


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_a_vm_beyond_a_pin_is_out_of_reach_whoever_made_it(serve: Serve, host: Host) -> None:
    made = host.json("vm", "create", "--start", "--json", BASE)
    vm: dict[str, Any] = {"vm_id": made["vm_id"]}
    async with serve("--max-mem-mib", "512").connect() as session:
        assert (await session.call("vm_list")).success()["vms"] == []
        tools: list[tuple[str, dict[str, Any]]] = [
            ("vm_exec", vm | {"command": "true"}),
            ("vm_status", vm),
            ("vm_delete", vm),
        ]
        for tool, arguments in tools:
            answer = await session.call(tool, **arguments)
            assert "--max-mem-mib" in told(answer), tool
    async with serve().connect() as session:
        (await session.call("vm_exec", **vm, command="true")).success()
        (await session.call("vm_delete", **vm)).success()


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_a_vm_with_wider_rules_is_out_of_reach_whoever_made_it(
    serve: Serve, host: Host
) -> None:
    private = host.json("vm", "create", "--json", "--network", "--allow-cidr", "10.0.0.0/8", BASE)
    public = host.json("vm", "create", "--json", "--network", BASE)
    async with serve().connect() as session:
        listed = (await session.call("vm_list")).success()["vms"]
        assert [vm["vm_id"] for vm in listed] == [public["vm_id"]]
        answer = await session.call("vm_start", vm_id=private["vm_id"])
        assert "operator" in told(answer)
        (await session.call("vm_delete", vm_id=public["vm_id"])).success()
    async with serve("--allow-cidr", "10.0.0.0/8").connect() as session:
        (await session.call("vm_delete", vm_id=private["vm_id"])).success()


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
async def test_rules_of_the_server_come_before_those_of_the_call(serve: Serve) -> None:
    rules: dict[str, Any] = {"network": True, "allow_cidrs": ["10.0.0.0/8"]}
    async with (
        serve("--allow-host", "*.example.org").connect() as session,
        created(session, **rules) as vm_id,
    ):
        told = (await session.call("vm_network_info", vm_id=vm_id)).success()
    assert [(policy["source"], policy["allow"]) for policy in told["policy"]] == [
        ("pyro mcp serve", ["*.example.org"]),
        (None, ["10.0.0.0/8"]),
    ]
