"""The policy of a browser form: what the one who signed it allows the one who sends it. Pure.

Source: s3.md 3.5 (SigV4: sigv4-HTTPPOSTConstructPolicy). Every field needs a condition, but for those named here.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sos.s3.errors import AccessDenied, InvalidPolicyDocument

_FREE: Final = frozenset({"policy", "file", "x-amz-signature"})
_FREE_PREFIX: Final = "x-ignore-"
_LENGTH: Final = "content-length-range"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostPolicy:
    """``conditions``: (operator, field, value). ``length``: least and greatest size of the file in bytes, None: any."""

    expires_ms: int
    conditions: tuple[tuple[str, str, str], ...]
    length: tuple[int, int] | None


def parse_policy(text: str) -> PostPolicy:
    """A policy field. Raises: InvalidPolicyDocument."""
    try:
        document = json.loads(b64decode(text, validate=True))
        json.dumps(document, ensure_ascii=False).encode()  # half a character fits in no answer
    except (binascii.Error, ValueError, RecursionError) as error:
        raise _invalid("Invalid JSON.") from error
    if not isinstance(document, dict):
        raise _invalid("Invalid JSON.")
    if "expiration" not in document or "conditions" not in document:
        raise _invalid("Policy is missing expiration or conditions.")
    conditions: list[tuple[str, str, str]] = []
    length = None
    if not isinstance(document["conditions"], list):
        raise _invalid("Invalid conditions.")
    for condition in document["conditions"]:
        if isinstance(condition, list) and len(condition) == 3 and condition[0] == _LENGTH:
            length = _parse_length(condition)
        else:
            conditions += _parse_condition(condition)
    return PostPolicy(
        expires_ms=_parse_time(document["expiration"]),
        conditions=tuple(conditions),
        length=length,
    )


def _parse_time(text: object) -> int:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise _invalid("Invalid 'expiration' value.") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _parse_length(condition: list[Any]) -> tuple[int, int]:
    try:
        least, greatest = int(condition[1]), int(condition[2])
    except (TypeError, ValueError, OverflowError) as error:
        raise _invalid("Invalid content-length-range.") from error
    return least, greatest


def _parse_condition(condition: object) -> list[tuple[str, str, str]]:
    if isinstance(condition, dict) and condition:
        found = []
        for name, value in condition.items():
            if not isinstance(value, str):
                raise _invalid("Invalid Simple-Condition: value must be a string.")
            found.append(("eq", name.lower(), value))
        return found
    match condition:
        case [("eq" | "starts-with") as operator, str(name), str(value)] if name.startswith("$"):
            return [(operator, name[1:].lower(), value)]
    raise _invalid("Invalid Condition.")


def check_policy(
    policy: PostPolicy, fields: Mapping[str, str], *, bucket: str, now_ms: int
) -> None:
    """Raises: AccessDenied, for a form that the policy does not allow. ``fields``: names in lower case."""
    if now_ms >= policy.expires_ms:
        raise AccessDenied(message="Invalid according to Policy: Policy expired.")
    values = {**fields, "bucket": bucket}
    covered = set()
    for operator, name, wanted in policy.conditions:
        value = values.get(name, "")
        covered.add(name)
        if not _holds(operator, name, value, wanted):
            raise AccessDenied(
                message=f'Invalid according to Policy: Policy Condition failed: ["{operator}", "${name}", "{wanted}"]'
            )
    for name in values:
        if name not in covered and name not in _FREE and not name.startswith(_FREE_PREFIX):
            raise AccessDenied(message=f"Invalid according to Policy: Extra input fields: {name}")


def _holds(operator: str, name: str, value: str, wanted: str) -> bool:
    if operator == "eq":
        return value == wanted
    if name == "content-type":  # a list: each of its items
        return all(item.strip().startswith(wanted) for item in value.split(","))
    return value.startswith(wanted)


def _invalid(what: str) -> InvalidPolicyDocument:
    return InvalidPolicyDocument(message=f"Invalid Policy: {what}")
