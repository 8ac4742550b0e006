"""Presigned URLs for the ready-to-paste lines of `demo` (SigV4, sigv4-query-string-auth)."""

from __future__ import annotations

import hashlib
import hmac
import time
from urllib.parse import quote

from sos.config import Address


def presign(
    method: str,
    address: Address,
    path: str,
    *,
    access_key: str,
    secret_key: str,
    region: str,
    expires_s: int = 86400,
    query: tuple[tuple[str, str], ...] = (),
) -> str:
    """A URL that anybody may use for ``expires_s`` seconds; ``path`` as sent, percent-encoded."""
    now = time.gmtime()
    stamp, date = time.strftime("%Y%m%dT%H%M%SZ", now), time.strftime("%Y%m%d", now)
    scope = f"{date}/{region}/s3/aws4_request"
    parameters = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{access_key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(expires_s),
        "X-Amz-SignedHeaders": "host",
        **dict(query),
    }
    rows = sorted(parameters.items())
    canonical_query = "&".join(f"{name}={quote(value, safe='')}" for name, value in rows)
    canonical = f"{method}\n{path}\n{canonical_query}\nhost:{address}\n\nhost\nUNSIGNED-PAYLOAD"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret_key}".encode()
    for step in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    return f"http://{address}{path}?{canonical_query}&X-Amz-Signature={signature}"
