"""What a person can ask for about the members, and what is answered. Pure values, and the check of what came in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from sos.limits import EPHEMERAL_PORTS
from sos.settings import NAME_PATTERN, parse_address

_TEXT_CHARS_MAX: Final = 300


class Action(Enum):
    """What is done with a member; the value travels."""

    ADD = "add"
    REMOVE = "remove"
    REPLACE = "replace"
    MOVE = "move"


class ChangeState(Enum):
    """Where a change is; the value travels."""

    WORKING = "working"
    DONE = "done"
    ALREADY = "already"
    REFUSED = "refused"
    UNKNOWN = "unknown"  # nobody who could tell answered: ask again


class BadChange(ValueError):
    """What is asked for makes no sense in any cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """``address``: of the member that is added or moved. ``new``: the name that replaces ``name``."""

    action: Action
    name: str
    address: str = ""
    new: str = ""

    def __str__(self) -> str:
        added = f"{self.new}=" if self.new else ""
        joint = "=" if self.action is Action.ADD else " "
        return (
            f"{self.action.value} {self.name}{joint if self.address else ''}{added}{self.address}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeAnswer:
    """``reason``: a sentence; ``step``: what goes on now; ``progress``: counts of that step."""

    state: ChangeState
    reason: str = ""
    step: str = ""
    progress: Mapping[str, int] = field(default_factory=dict)
    eta_s: float | None = None


def parse_change(document: object) -> Change:
    """The change in a JSON object. Raises: BadChange with one line that says what is wrong."""
    fields = document if isinstance(document, dict) else {}
    texts = {key: fields.get(key, "") for key in ("action", "name", "address", "new")}
    if not all(isinstance(text, str) and len(text) <= _TEXT_CHARS_MAX for text in texts.values()):
        raise BadChange("action, name, address and new are texts")
    try:
        action = Action(texts["action"])
    except ValueError as error:
        raise BadChange("action is add, remove, replace or move") from error
    needs_new, needs_address = action is Action.REPLACE, action is not Action.REMOVE
    for name in (texts["name"], *((texts["new"],) if needs_new else ())):
        if not NAME_PATTERN.match(name):
            raise BadChange(f"{name!r} is no node name: 1 to 32 characters of a-z, 0-9 and -")
    if needs_new and texts["new"] == texts["name"]:
        raise BadChange(f"{texts['name']} cannot replace itself: give the new node another name")
    return Change(
        action=action,
        name=texts["name"],
        address=_node_address(texts["address"]) if needs_address else "",
        new=texts["new"] if needs_new else "",
    )


def _node_address(text: str) -> str:
    try:
        address = parse_address(text)
    except ValueError as error:
        raise BadChange(f"address {text!r}: {error}") from error
    if address.port in EPHEMERAL_PORTS:
        raise BadChange(
            f"address {text}: node ports lie outside 32768-60999, where outgoing connections take theirs"
        )
    return str(address)
