"""`sos member` as a person sees it: progress, the end, an interruption, a node that does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from sos.admin.client import AdminAnswer, AdminUnreachable
from sos.cli import member as module
from sos.cli.member import member

Step = AdminAnswer | BaseException


def _answer(state: str, status: int = 200, **more: Any) -> AdminAnswer:
    return AdminAnswer(status=status, body={"state": state, "reason": "", **more})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `sos member` against a node that answers one step after the other; time passes only by sleeping."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setenv("SOS_ROOT_SECRET_KEY", "secret-of-the-root")

    def run(steps: Iterator[Step] | list[Step], *arguments: str) -> Result:
        given = iter(steps)

        def ask(*_: object, **__: object) -> AdminAnswer:
            step = next(given)
            if isinstance(step, BaseException):
                raise step
            return step

        monkeypatch.setattr(module, "ask", ask)
        return CliRunner().invoke(member, arguments)

    return run


def test_it_asks_until_it_is_done(run: Callable[..., Result]) -> None:
    """Issue 5: progress and time to go, also without a terminal; then one line."""
    copying = _answer("working", step="n4 gets the blobs", progress={"blobs owed": 7}, eta_s=3.0)
    done = run(
        [copying, copying, copying, _answer("done", reason="n4 is a member")],
        *("add", "n4=10.0.0.4:7000"),
    )
    assert (done.exit_code, done.stdout) == (0, "done: n4 is a member\n")
    assert "n4 gets the blobs (blobs owed 7), 3 s to go" in done.stderr


def test_what_was_done_before_is_already(run: Callable[..., Result]) -> None:
    """Repeating a change that is done succeeds and says so."""
    done = run([_answer("already", reason="n4 is a member")], "add", "n4=10.0.0.4:7000")
    assert (done.exit_code, done.stdout) == (0, "already: n4 is a member\n")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (_answer("refused", reason="n9 is unknown"), 1),
        (AdminAnswer(status=400, body={"error": "n9 is unknown"}), 2),
        (AdminAnswer(status=403, body={"error": "n9 is unknown"}), 1),
    ],
)
def test_a_refusal_is_one_line(run: Callable[..., Result], answer: AdminAnswer, code: int) -> None:
    """Issue 5: one line that says what to do, an exit code that is not 0."""
    done = run([answer], "remove", "n9")
    assert (done.exit_code, done.stdout) == (code, "")
    assert "n9 is unknown" in done.stderr


def test_a_node_that_is_away_for_a_while_is_asked_again(run: Callable[..., Result]) -> None:
    """The asked node may restart, lose its leader, or be the one that is removed."""
    away: list[Step] = [AdminUnreachable("away")] * 20
    silent = AdminAnswer(status=503, body={"error": "no leader"})
    done = run(
        [_answer("working", step="x"), *away, silent, _answer("done", reason="gone")],
        "remove",
        "n3",
    )
    assert (done.exit_code, done.stdout) == (0, "done: gone\n")
    lost = run([_answer("working", step="x"), *away * 3], "remove", "n3")
    assert lost.exit_code == 1
    assert "ask another node with --admin" in lost.stderr
    never = run(away, "remove", "n3")
    assert never.exit_code == 1


def test_ctrl_c_says_that_repeating_goes_on(run: Callable[..., Result]) -> None:
    """Issue 5: safe to interrupt."""
    done = run([_answer("working", step="x"), KeyboardInterrupt()], "remove", "n3")
    assert done.exit_code == 130
    assert "the same command goes on" in done.stderr


def test_names_and_addresses_are_one_word() -> None:
    """Bad input: a usage error before anybody is asked."""
    with pytest.raises(click.UsageError, match="is not NAME=HOST:PORT"):
        member.main(["add", "n4"], standalone_mode=False)
