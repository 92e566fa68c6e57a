"""VMs with a life of their own."""

from client import Session
from host import BASE, Host
from server import Server
from vm import created, started


async def test_a_vm_lives_from_create_to_delete(session: Session) -> None:
    made = (await session.call("vm_create", environment=BASE, metadata={"for": "tests"})).success()
    vm_id = made["vm_id"]
    assert made["state"] == "created"
    assert made["metadata"] == {"for": "tests"}
    assert (await session.call("vm_start", vm_id=vm_id)).success()["state"] == "started"
    command = "echo kept > /root/note; sync"
    assert (await session.call("vm_exec", vm_id=vm_id, command=command)).success()["exit_code"] == 0
    assert (await session.call("vm_status", vm_id=vm_id)).success()["state"] == "started"
    assert (await session.call("vm_stop", vm_id=vm_id)).success()["state"] == "stopped"
    assert (await session.call("vm_start", vm_id=vm_id)).success()["state"] == "started"
    read = (await session.call("vm_exec", vm_id=vm_id, command="cat /root/note")).success()
    assert read["stdout"] == "kept\n"
    gone = (await session.call("vm_delete", vm_id=vm_id)).success()
    assert gone == {"vm_id": vm_id, "deleted": True, "reason": "explicit_delete"}
    error = (await session.call("vm_status", vm_id=vm_id)).error()
    assert error["code"] == "unknown_vm"


async def test_a_vm_outlives_the_connection_and_is_seen_by_the_command_line(
    server: Server, host: Host
) -> None:
    async with server.connect() as session:
        made = (await session.call("vm_create", environment=BASE)).success()
    vm_id = made["vm_id"]
    assert host.vms() == [vm_id]
    async with server.connect() as session:
        listed = (await session.call("vm_list")).success()["vms"]
        assert [vm["vm_id"] for vm in listed] == [vm_id]
        (await session.call("vm_start", vm_id=vm_id)).success()
    async with server.connect() as session:
        told = (await session.call("vm_exec", vm_id=vm_id, command="echo hi > /root/x")).success()
    printed = host.json("vm", "exec", "--json", vm_id, "--", "cat", "/root/x")
    assert printed["stdout"] == "hi\n"
    assert printed.keys() <= told.keys()
    async with server.connect() as session:
        status = (await session.call("vm_status", vm_id=vm_id)).success()
        assert status == host.json("vm", "status", "--json", vm_id)
        (await session.call("vm_delete", vm_id=vm_id)).success()
    assert host.vms() == []


async def test_a_vm_made_on_the_command_line_can_be_used(session: Session, host: Host) -> None:
    vm_id = host.json("vm", "create", "--start", "--json", BASE)["vm_id"]
    outcome = (await session.call("vm_exec", vm_id=vm_id, command="uname")).success()
    assert outcome["stdout"] == "Linux\n"
    (await session.call("vm_delete", vm_id=vm_id)).success()


async def test_an_exec_leaves_the_vm_running_and_takes_what_a_run_takes(session: Session) -> None:
    async with started(session) as vm_id:
        outcome = (
            await session.call(
                "vm_exec",
                vm_id=vm_id,
                command='pwd; echo "$A"; cat; exit 7',
                env={"A": "b"},
                cwd="/tmp",
                stdin="in",
            )
        ).success()
        assert (outcome["stdout"], outcome["exit_code"]) == ("/tmp\nb\nin", 7)
        assert outcome["cleanup"]["deleted"] is False
        assert (await session.call("vm_status", vm_id=vm_id)).success()["state"] == "started"


async def test_a_vm_without_a_network_says_so(session: Session) -> None:
    async with created(session) as vm_id:
        told = (await session.call("vm_network_info", vm_id=vm_id)).success()
    assert told["vm_id"] == vm_id
    assert told["network_enabled"] is False
    assert told["outbound_connectivity_expected"] is False
    assert told["reason"]


async def test_a_vm_within_its_time_is_not_reaped(session: Session) -> None:
    async with created(session) as vm_id:
        reaped = (await session.call("vm_reap_expired")).success()
        assert reaped == {"deleted_vm_ids": [], "count": 0}
        assert (await session.call("vm_status", vm_id=vm_id)).success()["state"] == "created"


async def test_a_stop_is_accepted_in_any_state(session: Session) -> None:
    async with created(session) as vm_id:
        for _ in range(2):
            assert (await session.call("vm_stop", vm_id=vm_id)).success()["state"] == "stopped"
