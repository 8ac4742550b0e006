"""``@value()``: a dataclass that the type checker freezes, for the few values that are made on every PUT. Pure.

``dataclass(frozen=True)`` sets each field through ``object.__setattr__``: 3.4 us for ten fields, against 1.5 us for
plain ones, and applying one PUT makes a dozen such objects on every node. ``mypy --strict`` refuses an assignment to
a field of either; only the run time does not look again here (docs/decisions/0015).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

_Class = TypeVar("_Class")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def value(*, kw_only: bool = True) -> Callable[[type[_Class]], type[_Class]]:
    """Make a class a dataclass with slots, compared and hashed by its fields, which nobody assigns again."""
    return dataclass(slots=True, kw_only=kw_only, unsafe_hash=True)
