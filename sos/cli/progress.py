"""Shows what a person waits for while nodes start: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from sos.admin.client import AdminUnreachable, ask
from sos.errors import StartRefused
from sos.settings import Address

READY: Final = "ready"
_ASK_S: Final = 0.05
_ANSWER_S_MAX: Final = 5.0  # the answer contains a read barrier, which may wait for a leader
_REPEAT_S: Final = 2.0  # a plain line at least this often: silence looks like a hang
_CHANGE_S: Final = 0.5  # and of states that pass by at most one in this time
_LOOK_S: Final = 0.02


class Watched(Protocol):
    """A node that is waited for."""

    @property
    def name(self) -> str: ...

    @property
    def admin(self) -> Address: ...

    def ended(self) -> str | None:
        """Why its processes do not run; None while they do."""


class Progress:
    """Waits until nodes serve, and tells meanwhile which one is waited for, and why."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def wait_ready(self, nodes: Sequence[Watched], deadline_s: float) -> None:
        """Until each serves linearizable requests. Raises: StartRefused at the deadline."""
        states = {node.name: "starting" for node in nodes}
        done = threading.Event()
        for node in nodes:
            threading.Thread(target=_watch, args=(node, states, done), daemon=True).start()
        try:
            self._show_until_ready(states, deadline_s)
        finally:
            done.set()

    def _show_until_ready(self, states: Mapping[str, str], deadline_s: float) -> None:
        started = time.monotonic()
        with LiveLine(self._console) as line:
            while waits := _waits(states):
                if time.monotonic() - started > deadline_s:
                    raise StartRefused(f"not ready within {deadline_s:.0f} s: {waits}")
                line.show(waits)
                time.sleep(_LOOK_S)


class LiveLine:
    """What is going on, after the seconds so far: rewritten on a terminal, elsewhere a line at each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = self._shown_at = time.monotonic()
        self._shown = ""
        self._status: Status | None = console.status("") if console.is_terminal else None

    def __enter__(self) -> LiveLine:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, text: str) -> None:
        """``text`` is what it is at now."""
        now = time.monotonic()
        elapsed = now - self._started
        if self._status is not None:
            self._status.update(f"{elapsed:.0f} s: {escape(text)}")
        elif now - self._shown_at > (_CHANGE_S if text != self._shown else _REPEAT_S):
            self._console.print(f"  {elapsed:.1f} s: {text}", markup=False, soft_wrap=True)
            self._shown, self._shown_at = text, now


def _waits(states: Mapping[str, str]) -> str:
    """What is not ready, in the order of the nodes; equal states are told once."""
    names: dict[str, list[str]] = {}
    for name, state in states.items():
        if state != READY:
            names.setdefault(state, []).append(name)
    return "; ".join(f"{', '.join(who)} {state}" for state, who in names.items())


def _watch(node: Watched, states: dict[str, str], done: threading.Event) -> None:
    """Keep ``states`` of this node true; a thread of its own, for a node may be slow to answer."""
    while not done.is_set():
        states[node.name] = node_state(node.admin, node.ended)
        if states[node.name] == READY:
            return
        done.wait(_ASK_S)


def node_state(admin: Address, ended: Callable[[], str | None]) -> str:
    """``READY``, or what the node is at, in a few words."""
    why = ended()
    if why is not None:
        return why
    try:
        answer = ask(admin, "GET", "/status", timeout_s=_ANSWER_S_MAX)
    except AdminUnreachable:
        return "starting"
    body = answer.body
    if answer.status != 200 or not isinstance(body, dict):
        return f"answers {answer.status}"
    if body["ready"]:
        return READY
    if body["cluster_id"] is None:
        return ", ".join(body.get("waiting", [])) or "forming the cluster"
    if body["leader"] is None:
        return "waiting for a leader"
    return f"catching up (leader: {str(body['leader']).partition('@')[0]})"
