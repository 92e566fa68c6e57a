"""What a command writes, kept within limits."""

from __future__ import annotations

from pyro_mcp._errors import CommandFailedError, InvalidInputError

STDERR_BYTES_MAX = 64 * 1024
"""Of standard error only the end is kept: that is where programs say why they failed."""


class CollectedOutput:
    """All of a command's standard output, up to a limit, and the end of its standard error."""

    def __init__(self, bytes_max: object) -> None:
        if isinstance(bytes_max, bool) or not isinstance(bytes_max, int):
            raise TypeError(f"bytes_max must be int, not {type(bytes_max).__name__}")
        if bytes_max < 1:
            raise InvalidInputError(f"bytes_max must be positive, not {bytes_max}", "invalid_input")
        self._bytes_max = bytes_max
        self._stdout = bytearray()
        self._stderr = bytearray()

    def take_stdout(self, data: bytes) -> None:
        """Keeps a piece. What this raises ends the command."""
        if len(self._stdout) + len(data) > self._bytes_max:
            raise InvalidInputError(
                f"the command writes more than {self._bytes_max} bytes",
                "invalid_input",
                (),
                ("read a stream, which has no limit, or raise `bytes_max`",),
            )
        self._stdout += data

    def take_stderr(self, data: bytes) -> None:
        """Keeps the end of what there is."""
        self._stderr += data
        del self._stderr[:-STDERR_BYTES_MAX]

    def checked(self, command: str, exit_code: int) -> bytes:
        """The standard output of a command that succeeded."""
        if exit_code != 0:
            raise CommandFailedError(command, exit_code, bytes(self._stdout), bytes(self._stderr))
        return bytes(self._stdout)
