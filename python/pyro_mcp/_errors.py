"""The exceptions that pyro raises.

Every one is a `PyroError`. Those for bad input and unknown names are `ValueError`s as well, all others
`RuntimeError`s, so that code which knows nothing of pyro can catch them.
"""

from __future__ import annotations

from collections.abc import Sequence


class PyroError(Exception):
    """Something that pyro cannot do.

    A command that fails in a VM is not an error: its exit code is in its outcome.
    """

    code: str
    """What went wrong, as one of a few stable names, for instance `unknown_vm`."""

    message: str
    """What went wrong, in one line, without causes."""

    causes: tuple[str, ...]
    """Why, from the nearest cause to the root."""

    hints: tuple[str, ...]
    """What can be done about it."""

    def __init__(
        self,
        message: str,
        code: str = "internal",
        causes: Sequence[str] = (),
        hints: Sequence[str] = (),
    ) -> None:
        self.message = message
        self.code = code
        self.causes = tuple(causes)
        self.hints = tuple(hints)
        super().__init__(": ".join((message, *self.causes)))
        # Python 3.11 and newer show notes below the message.
        add_note = getattr(self, "add_note", None)
        if add_note is not None:
            for hint in self.hints:
                add_note(f"hint: {hint}")

    def __reduce__(self) -> tuple[type[PyroError], tuple[object, ...]]:
        return (type(self), (self.message, self.code, self.causes, self.hints))


class InvalidInputError(PyroError, ValueError):
    """A value is outside its limits or malformed; nothing was done."""


class UnknownEnvironmentError(PyroError, ValueError):
    """The catalog has no environment of this name."""


class UnknownVMError(PyroError, ValueError):
    """There is no VM of this name, or no longer."""


class EnvironmentUnavailableError(PyroError, RuntimeError):
    """The environment could not be fetched, built or verified."""


class NoSpaceError(PyroError, RuntimeError):
    """A disk is too full."""


class HostUnsupportedError(PyroError, RuntimeError):
    """The host lacks something that VMs need."""


class VMStartError(PyroError, RuntimeError):
    """The VM did not start."""


class VMLostError(PyroError, RuntimeError):
    """The VM died, or broke the protocol, in the middle of its work."""


class VMExpiredError(PyroError, RuntimeError):
    """The VM's time to live is over."""


class WrongVMStateError(PyroError, RuntimeError):
    """The VM cannot do this in the state that it is in."""


class TooManyVMsError(PyroError, RuntimeError):
    """There are as many VMs as there may be."""


class DeadlineReachedError(PyroError, RuntimeError):
    """The call took longer than it may."""


class NotAvailableError(PyroError, RuntimeError):
    """Nothing that this version of pyro can do yet."""


class CallInterruptedError(PyroError, RuntimeError):
    """The work was ended before it was done."""


class InternalError(PyroError, RuntimeError):
    """A defect in pyro."""


class CommandFailedError(PyroError, RuntimeError):
    """A command of `check_output` failed. Only that method takes a command's failure for an error."""

    exit_code: int
    """The command's: 124 where its time was over."""

    stdout: bytes
    """All that it wrote to its standard output."""

    stderr: bytes
    """The end of what it wrote to its standard error: at most 64 KiB."""

    def __init__(self, command: str, exit_code: int, stdout: bytes, stderr: bytes) -> None:
        self.command = command
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr
        last = stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        super().__init__(f"command failed with exit code {exit_code}", "command_failed", last)

    def __reduce__(self) -> tuple[type[PyroError], tuple[object, ...]]:
        return (type(self), (self.command, self.exit_code, self.stdout, self.stderr))
