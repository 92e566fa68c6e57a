"""Errors: their classes, and what is in them."""

from __future__ import annotations

import pickle
import sys

import host
import pyro_mcp
import pytest
from pyro_mcp import (
    InvalidInputError,
    Pyro,
    PyroError,
    TooManyVMsError,
    UnknownEnvironmentError,
    UnknownVMError,
    WrongVMStateError,
    _errors,
    _native,
)

BAD_INPUT = {"invalid_input", "unknown_environment", "unknown_vm"}


@pytest.mark.parametrize(("code", "name"), _native.ERRORS.items())
def test_every_code_has_a_class(code: str, name: str):
    error = getattr(pyro_mcp, name)
    assert issubclass(error, PyroError)
    assert issubclass(error, ValueError) == (code in BAD_INPUT)
    assert issubclass(error, RuntimeError) == (code not in BAD_INPUT)
    assert name in pyro_mcp.__all__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vcpu_count": 9}, "vcpu_count must be between 1 and 8, not 9"),
        ({"mem_mib": 255}, "mem_mib must be between 256 and 32768, not 255"),
        ({"ttl_seconds": 59}, "ttl_seconds must be between 60 and 3600, not 59"),
        ({"timeout_seconds": 0}, "timeout_seconds must be positive, not 0"),
        ({"command": " "}, "command must not be empty"),
        ({"cwd": "tmp"}, 'cwd must be an absolute path without a NUL byte, not "tmp"'),
        ({"vcpu_count": 2**70}, "vcpu_count must be between 1 and 8"),
    ],
)
def test_values_beyond_their_limits_are_refused(pyro: Pyro, options: dict, message: str):
    arguments = {"environment": host.ENVIRONMENT, "command": "true", **options}
    with pytest.raises(InvalidInputError) as caught:
        pyro.run_in_vm(**arguments)
    assert caught.value.message.startswith(message)
    assert caught.value.code == "invalid_input"
    assert isinstance(caught.value, ValueError)


def test_the_number_of_vms_is_checked_at_once():
    with pytest.raises(InvalidInputError, match="max_active_vms must be between 1 and 1000, not 0"):
        Pyro(max_active_vms=0)


def test_an_unknown_environment_is_answered_with_those_there_are(pyro: Pyro):
    with pytest.raises(UnknownEnvironmentError, match="unknown environment 'x'; expected one of: debian:12"):
        pyro.create_vm(environment="x")
    with pytest.raises(ValueError, match="unknown environment"):
        pyro.pull_environment("x")


@pytest.mark.parametrize(
    "method", ["start_vm", "stop_vm", "delete_vm", "status_vm", "network_info_vm", "logs_vm", "attach"]
)
@pytest.mark.parametrize("vm_id", ["0123456789ab", "../../etc", ""])
def test_an_unknown_vm_does_not_exist(pyro: Pyro, method: str, vm_id: str):
    with pytest.raises(UnknownVMError, match=f"vm '{vm_id}' does not exist"):
        getattr(pyro, method)(vm_id)


def test_a_vm_in_the_wrong_state_is_left_alone(pyro: Pyro):
    vm_id = pyro.create_vm(environment=host.ENVIRONMENT)["vm_id"]
    try:
        with pytest.raises(WrongVMStateError) as caught:
            pyro.exec_vm(vm_id, command="true")
        assert isinstance(caught.value, RuntimeError)
        full = Pyro(max_active_vms=1)
        with pytest.raises(TooManyVMsError, match="max active VMs reached"):
            full.create_vm(environment=host.ENVIRONMENT)
    finally:
        pyro.delete_vm(vm_id)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": False}, "allow_hosts needs a network"),
        ({"allow_hosts": ["10.0.0.1"]}, "allow_hosts: '10.0.0.1' is no host: it is an address"),
        ({"allow_cidrs": ["example.com"]}, "allow_cidrs: 'example.com' is no CIDR rule: "),
        ({"publish": ["80:80", "80:81"]}, "publish: the host's port 80 is there twice"),
        ({"deny_hosts": ["*.example"]}, "'a.example' is allowed in vain: '*.example' is denied"),
    ],
)
def test_a_rule_that_makes_no_sense_is_bad_input(pyro: Pyro, options: dict, message: str):
    arguments = {"network": True, "allow_hosts": ["a.example"], **options}
    for call in (pyro.run_in_vm, pyro.create_vm):
        more = {"command": "true"} if call == pyro.run_in_vm else {}
        with pytest.raises(InvalidInputError) as caught:
            call(environment=host.ENVIRONMENT, **more, **arguments)
        assert str(caught.value).startswith(message)
        assert caught.value.hints


def test_what_the_operator_refuses_no_argument_allows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYRO_NETWORK", "off")
    with pytest.raises(InvalidInputError, match="network must be false") as caught:
        Pyro().run_in_vm(environment=host.ENVIRONMENT, command="true", network=True)
    assert caught.value.causes == ("the operator of this host refuses it in `PYRO_NETWORK`",)


def test_hints_are_shown_with_the_traceback():
    error = PyroError("cannot", "internal", ["because", "of"], ["do this"])
    assert str(error) == "cannot: because: of"
    assert (error.code, error.causes, error.hints) == ("internal", ("because", "of"), ("do this",))
    if sys.version_info >= (3, 11):
        assert error.__notes__ == ["hint: do this"]


def test_errors_can_be_sent_to_another_process():
    error = _errors.NoSpaceError("cannot", "no_space", ["because"], ["do this"])
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.message, copy.code, copy.causes, copy.hints) == (
        "cannot",
        "no_space",
        ("because",),
        ("do this",),
    )
    failed = _errors.CommandFailedError("x", 3, b"out", b"err")
    copy = pickle.loads(pickle.dumps(failed))
    assert (copy.command, copy.exit_code, copy.stdout, copy.stderr) == ("x", 3, b"out", b"err")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vcpu_count": "2"}, "vcpu_count must be int, not str"),
        ({"mem_mib": True}, "mem_mib must be int, not bool"),
        ({"ttl_seconds": 60.5}, "ttl_seconds must be int, not float"),
        ({"timeout_seconds": True}, "timeout_seconds must be int or float, not bool"),
        ({"timeout_seconds": "1"}, "timeout_seconds must be int or float, not str"),
        ({"network": 1}, "network must be bool, not int"),
        ({"allow_hosts": "example.com"}, "allow_hosts must be a sequence of str, not str"),
        ({"deny_cidrs": 5}, "deny_cidrs must be a sequence of str, not int"),
        ({"publish": [80]}, "an item of publish must be str, not int"),
        ({"host_ca": "yes"}, "host_ca must be bool, not str"),
        ({"command": None}, "command must be str, not NoneType"),
        ({"command": ["echo", "hi"]}, "command must be str, not list"),
        ({"environment": 12}, "environment must be str, not int"),
        ({"cwd": 1}, "cwd must be str or os.PathLike, not int"),
        ({"cwd": b"/tmp"}, "cwd must be str, not bytes"),
        ({"env": {"A": 1}}, "a value in env must be str, not int"),
        ({"env": {1: "A"}}, "a name in env must be str, not int"),
        ({"stdin": 5}, "stdin must be str or bytes-like, not int"),
        ({"stdin": [1, 2]}, "stdin must be str or bytes-like, not list"),
    ],
)
def test_a_value_of_the_wrong_type_is_a_type_error(pyro: Pyro, options: dict, message: str):
    arguments = {"environment": host.ENVIRONMENT, "command": "true", **options}
    with pytest.raises(TypeError) as caught:
        pyro.run_in_vm(**arguments)
    assert str(caught.value) == message


def test_so_is_one_that_is_no_option(pyro: Pyro):
    with pytest.raises(TypeError):
        pyro.status_vm(12)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="run_id must be int, not bool"):
        pyro.logs_vm("0123456789ab", True)
    with pytest.raises(TypeError, match="bytes_max must be int, not float"):
        pyro.read_file_vm("0123456789ab", "/a", bytes_max=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"path must be str or os\.PathLike, not int"):
        pyro.read_file_vm("0123456789ab", 5)  # type: ignore[arg-type]
    for data in (None, 5, [1]):
        with pytest.raises(TypeError, match="data must be str or bytes-like, not"):
            pyro.write_file_vm("0123456789ab", "/a", data)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="max_active_vms must be int, not str"):
        Pyro(max_active_vms="4")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a value in metadata must be str, not int"):
        pyro.create_vm(environment=host.ENVIRONMENT, metadata={"a": 1})  # type: ignore[dict-item]


def test_a_number_that_fits_no_limit_is_bad_input(pyro: Pyro):
    for run_id in (-1, 2**32, 2**70):
        with pytest.raises(InvalidInputError, match=f"run_id must be between 1 and 4294967295, not {run_id}"):
            pyro.logs_vm("0123456789ab", run_id)
        with pytest.raises(InvalidInputError, match="run_id must be between"):
            pyro.log_bytes_vm("0123456789ab", run_id)
    for port in (-1, 70000):
        with pytest.raises(InvalidInputError, match=f"port must be between 0 and 65535, not {port}"):
            pyro.create_server().run("http", port=port)
    with pytest.raises(InvalidInputError, match="timeout_seconds must be positive, not -inf"):
        pyro.run_in_vm(environment=host.ENVIRONMENT, command="true", timeout_seconds=-(10**400))
    with pytest.raises(InvalidInputError, match="command must be text that UTF-8 can express"):
        pyro.run_in_vm(environment=host.ENVIRONMENT, command="\udcff")
