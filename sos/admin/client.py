"""Asks a node's admin listener, for the command line and for `demo`."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any, Final

from sos.admin.proof import SIGNATURE_HEADER, TIME_HEADER, sign
from sos.config import Address
from sos.errors import SosError

_ANSWER_S_MAX: Final = 15.0


class AdminUnreachable(SosError):
    """No answer from the admin listener."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAnswer:
    """``body`` is the JSON document, or the text of a plain answer."""

    status: int
    body: Any


def ask(
    address: Address,
    method: str,
    path: str,
    *,
    body: dict[str, Any] | None = None,
    root_secret_key: str | None = None,
    timeout_s: float = _ANSWER_S_MAX,
) -> AdminAnswer:
    """One request. Raises: AdminUnreachable."""
    payload = b"" if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if root_secret_key is not None:
        now = int(time.time())
        headers[TIME_HEADER] = str(now)
        headers[SIGNATURE_HEADER] = sign(
            root_secret_key, method=method, path=path, time_s=now, body=payload
        )
    connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    try:
        connection.request(method, path, body=payload, headers=headers)
        response = connection.getresponse()
        text = response.read(16 * 1024 * 1024)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise AdminUnreachable(
            f"no answer from the admin listener at {address}: {reason}"
        ) from error
    finally:
        connection.close()
    try:
        return AdminAnswer(status=response.status, body=json.loads(text))
    except ValueError:
        return AdminAnswer(status=response.status, body=text.decode(errors="replace"))
