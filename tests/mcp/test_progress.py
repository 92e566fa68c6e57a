"""Whoever asks is told how far a call is."""

import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from client import Session, Step
from host import BASE, clients, environment_cache
from vm import started

SILENCE_SECONDS_MAX = 7.0
"""A client hears every 5 s of a call that lasts; the rest is for a busy host."""

STEPS_PER_SECOND_MAX = 11
"""10 a second, and one that a busy host delayed into the next second."""


@pytest.fixture
def cache() -> Iterator[Path]:
    """Keep the environments that all tests use, but none of their templates."""
    shared = environment_cache()
    cache = clients() / "cache-without-templates"
    shutil.rmtree(cache, ignore_errors=True)
    for path in shared.rglob("*"):
        name = path.relative_to(shared)
        if path.is_file() and name.parts[0] not in ("templates", "locks", "partial"):
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(path, cache / name)
    yield cache
    shutil.rmtree(cache)


def check(steps: list[Step], until: float) -> None:
    """Check what holds of the notifications of every call."""
    assert steps
    for step, following in pairwise(steps):
        assert step.value < following.value
        assert following.seconds - step.seconds < SILENCE_SECONDS_MAX
    assert until - steps[-1].seconds < SILENCE_SECONDS_MAX
    for first, last in zip(steps, steps[STEPS_PER_SECOND_MAX:], strict=False):
        assert last.seconds - first.seconds > 1.0


async def test_the_making_of_a_template_is_told_step_by_step(session: Session) -> None:
    steps: list[Step] = []
    answer = await session.call(
        "vm_run", on_step=steps.append, environment=BASE, command="true", timeout_seconds=60
    )
    assert answer.success()["vm_start"] == "restored"
    check(steps, steps[-1].seconds)
    texts = list(dict.fromkeys(step.message for step in steps if step.message))
    assert len(texts) >= 3, texts
    assert any("template" in text for text in texts), texts


@pytest.mark.parametrize("transport", ["http"], indirect=True)
@pytest.mark.parametrize("cache", [environment_cache()], ids=["shared"])
async def test_a_long_command_is_told_of_until_it_ends(session: Session) -> None:
    async with started(session) as vm_id:
        steps: list[Step] = []
        outcome = await session.call(
            "vm_exec", on_step=steps.append, vm_id=vm_id, command="sleep 11; date"
        )
        assert outcome.success()["exit_code"] == 0
        assert len(steps) >= 2
        check(steps, steps[-1].seconds)
        told = len(steps)
        (await session.call("vm_status", vm_id=vm_id)).success()
        assert len(steps) == told, "nothing is told of a call that has ended"
