"""A command whose output is read while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from pyro_mcp import _await
from pyro_mcp._payloads import ExecOutcome, Output, RunOutcome

if TYPE_CHECKING:
    from pyro_mcp import _native
    from pyro_mcp._options import OnOutput

OutcomeT = TypeVar("OutcomeT", RunOutcome, ExecOutcome)


class Stream(Generic[OutcomeT]):
    """A command that runs while its output is read.

    Iterating gives `Output(stream, data)` as it is written: `stream` is `"stdout"` or `"stderr"`, `data` are
    bytes. A command whose output is not read waits at its next write. It ends with the command; where that
    could not run, or was ended by `close`, iterating raises the `PyroError` that `outcome()` raises. Any exit
    code is an outcome, not an error.

    It begins when this is made. At the end of a `with` block, or when nobody has this any more, it is over:
    a command that still runs is ended.
    """

    def __init__(self, native: _native.Stream) -> None:
        self._native = native

    def __enter__(self) -> Stream[OutcomeT]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Output]:
        return self

    def __next__(self) -> Output:
        piece = _await.wait(self._native.next())
        if piece is None:
            raise StopIteration
        return Output(*piece)

    def outcome(self) -> OutcomeT:
        """What became of the command, as from `exec_vm` or `run_in_vm`. Waits for its end.

        Output that was not read yet is passed over.

        Raises:
            PyroError: as `exec_vm` and `run_in_vm` do.
        """
        return self.feed(None, None)

    def feed(self, on_stdout: OnOutput | None, on_stderr: OnOutput | None) -> OutcomeT:
        """Calls a function with each piece of output, and gives the outcome.

        What a function raises ends the command, if this is used in a `with` block.
        """
        for stream, data in self:
            on_output = on_stdout if stream == "stdout" else on_stderr
            if on_output is not None:
                on_output(data)
        outcome: OutcomeT = self._native.outcome().wait()
        return outcome

    def close(self) -> None:
        """Ends the command if it still runs, and waits until nothing of it is left."""
        self._native.close().wait()
