"""Proof that a request to the admin listener comes from who holds the root secret key. Pure."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

SIGNATURE_HEADER: Final = "X-Sos-Signature"
TIME_HEADER: Final = "X-Sos-Time"


def sign(secret: str, *, method: str, path: str, time_s: int, body: bytes) -> str:
    """Proof of the root secret key for one request; the key itself never travels."""
    digest = hashlib.sha256(body).hexdigest()
    text = f"sos-admin-1\n{method}\n{path}\n{time_s}\n{digest}".encode()
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()
