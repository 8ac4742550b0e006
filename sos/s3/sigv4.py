"""Proof of who sent a request: AWS Signature Version 4, in headers and presigned URLs. Pure.

Source: s3.md 3.1-3.4 (SigV4: sig-v4-header-based-auth, sigv4-query-string-auth). Two steps, so that the caller can look
the secret up in between: ``parse_authorization`` judges form, region and date; ``verify`` the signature.
Signatures, secrets and signing keys are never logged, and no error carries a secret.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

from sos.limits import CLOCK_SKEW_S_MAX
from sos.s3.canonical import canonical_requests
from sos.s3.dates import format_amz_date, format_iso, parse_amz_date, parse_http_date
from sos.s3.errors import (
    AccessDenied,
    AuthorizationHeaderMalformed,
    AuthorizationQueryParametersError,
    HeadersNotSigned,
    InvalidAccessKeyId,
    InvalidArgument,
    InvalidRequest,
    InvalidToken,
    RequestExpired,
    RequestTimeTooSkewed,
    S3Error,
    SignatureDoesNotMatch,
)
from sos.s3.head import RequestHead, printable

ALGORITHM: Final = "AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
EXPIRES_S_MAX: Final = 604_800  # a week (SigV4: sigv4-query-string-auth)
_CACHED_CHARS_MAX: Final = 512
SIGNING_KEYS_MAX: Final = 1024  # cached; one per access key, day and region

_OTHER_SCHEMES: Final = re.compile(r"AWS(?:4-ECDSA-P256-SHA256)?\s", re.ASCII)  # SigV4A, SigV2
_HEADER_PARTS: Final = ("Credential", "SignedHeaders", "Signature")
_QUERY_NAMES: Final = (
    *("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date"),
    *("X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"),
)
_HEX_64: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_NUMBER: Final = re.compile(r"\d{1,9}", re.ASCII)
_ONE_MECHANISM: Final = (
    "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string parameter"
    " or the Authorization header should be specified"
)
_WRONG_MECHANISM: Final = (
    "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
)


class PayloadMode(Enum):
    """How the body travels and what of it is signed (s3.md 3.2)."""

    SIGNED = "64 hex digits"
    UNSIGNED = UNSIGNED_PAYLOAD
    CHUNKED_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    CHUNKED_SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
    CHUNKED_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """``x-amz-content-sha256``. ``text`` is what the canonical request holds; ``sha256`` only with SIGNED."""

    mode: PayloadMode
    text: str
    sha256: bytes | None = None

    @property
    def is_chunked(self) -> bool:
        """Whether the body is aws-chunked."""
        return self.mode is not PayloadMode.SIGNED and self.mode is not PayloadMode.UNSIGNED


_KNOWN_PAYLOADS: Final = {
    mode.value: Payload(mode=mode, text=mode.value)
    for mode in PayloadMode
    if mode is not PayloadMode.SIGNED
} | {  # nearly every request without a body
    EMPTY_SHA256: Payload(
        mode=PayloadMode.SIGNED, text=EMPTY_SHA256, sha256=bytes.fromhex(EMPTY_SHA256)
    )
}
UNSIGNED: Final = _KNOWN_PAYLOADS[UNSIGNED_PAYLOAD]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anonymous:
    """Nothing was sent to say who asks."""


class Claim(NamedTuple):
    """Who a request says it is from; not yet proven. ``signed_headers``: lower case, in order of name."""

    access_key: str
    date: str
    region: str
    timestamp: str
    signed_headers: tuple[str, ...]
    signature: str
    presigned: bool
    payload: Payload
    scope: str


class Verified(NamedTuple):
    """A proven claim, with what the signatures of chunks and trailers continue from."""

    access_key: str
    presigned: bool
    payload: Payload
    seed_signature: str
    timestamp: str
    scope: str
    signing_key: SigningKey


class SigningKey:
    """The key of one access key, day and region. Its set-up is done once: each signature starts from a copy."""

    __slots__ = ("_keyed",)

    def __init__(self, key: bytes) -> None:
        self._keyed = hmac.new(key, digestmod="sha256")

    def sign(self, text: str) -> str:
        """The signature of ``text``, in lower-case hex."""
        running = self._keyed.copy()
        running.update(text.encode())
        return running.hexdigest()


class SigningKeys:
    """Cache of derived signing keys. One object per gateway; forgets all when full (a day's keys do not add up)."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str, str], SigningKey] = {}

    def derive(self, secret_key: str, date: str, region: str) -> SigningKey:
        """The signing key for one day and region (SigV4: HMAC chain)."""
        wanted = (secret_key, date, region)
        signing_key = self._keys.get(wanted)
        if signing_key is None:
            key = f"AWS4{secret_key}".encode()
            for step in (date, region, "s3", "aws4_request"):
                key = hmac.digest(key, step.encode(), "sha256")
            if len(self._keys) >= SIGNING_KEYS_MAX:
                self._keys.clear()
            signing_key = self._keys[wanted] = SigningKey(key)
        return signing_key


# --- step one: what is claimed ----------------------------------------------------------------------
def parse_authorization(head: RequestHead, *, region: str, now_ms: int) -> Claim | Anonymous:
    """Read who the request says it is from; in the order form, region and service, date (s3.md 3.4).

    Raises: InvalidArgument, InvalidRequest, InvalidToken, AuthorizationHeaderMalformed,
    AuthorizationQueryParametersError, AccessDenied, RequestExpired, RequestTimeTooSkewed.
    """
    header = head.headers.get("authorization", "")
    params = head.params
    in_query = bool(params) and ("X-Amz-Algorithm" in params or "X-Amz-Signature" in params)
    if header:
        if in_query or ("Signature" in params and "AWSAccessKeyId" in params):
            raise InvalidArgument("Authorization", printable(header), message=_ONE_MECHANISM)
        return _parse_header(head, header, region, now_ms)
    if in_query:
        return _parse_query(head, region, now_ms)
    if "AWSAccessKeyId" in params and "Signature" in params:
        raise InvalidRequest(message=_WRONG_MECHANISM)
    if head.headers.get("x-amz-content-sha256", "").startswith("STREAMING-AWS4-HMAC"):
        raise InvalidRequest(message="Anonymous requests cannot use a signed streaming payload.")
    return Anonymous()


class _Credential(NamedTuple):
    """What an ``Authorization`` header says besides its signature: the same in most requests of a client's day."""

    access_key: str
    date: str
    region: str
    signed_headers: tuple[str, ...]
    scope: str


def _parse_header(head: RequestHead, header: str, region: str, now_ms: int) -> Claim:
    beginning, mark, signature = header.rpartition(",Signature=")
    if not mark:
        beginning, mark, signature = header.rpartition(", Signature=")
    credential = None
    if len(beginning) <= _CACHED_CHARS_MAX and signature and "," not in signature:
        credential = _known_credential(beginning)
    if credential is None or credential.region != region:
        credential, signature = _parse_credential(header, region)
    _refuse_session_token(head)
    timestamp = _header_timestamp(head)
    date = credential.date
    if timestamp[:8] != date:
        raise AuthorizationHeaderMalformed(
            message=_malformed(
                f'Invalid credential date "{date}". This date is not the same as X-Amz-Date: "{timestamp[:8]}".'
            )
        )
    _check_skew(timestamp, now_ms)
    return Claim(
        access_key=credential.access_key,
        date=date,
        region=region,
        timestamp=timestamp,
        signed_headers=credential.signed_headers,
        signature=signature,
        presigned=False,
        payload=_header_payload(head),
        scope=credential.scope,
    )


@lru_cache(maxsize=1024)
def _known_credential(beginning: str) -> _Credential | None:
    """A header without its signature that is as it should be in itself; None: find out in full what is wrong."""
    scheme, _, rest = beginning.partition(" ")
    parts = dict(piece.strip().partition("=")[::2] for piece in rest.split(","))
    if scheme != ALGORITHM or not parts.get("Credential") or not parts.get("SignedHeaders"):
        return None
    scope = parse_scope(parts["Credential"])
    if isinstance(scope, str):
        return None
    return _credential(scope, _parse_signed_headers(parts["SignedHeaders"]))


def _credential(parts: tuple[str, str, str], signed_headers: tuple[str, ...]) -> _Credential:
    access_key, date, region = parts
    return _Credential(access_key, date, region, signed_headers, _scope(date, region))


def _scope(date: str, region: str) -> str:
    return f"{date}/{region}/s3/aws4_request"


def _parse_credential(header: str, region: str) -> tuple[_Credential, str]:
    """The parts of a header, and its signature."""
    scheme, _, rest = header.partition(" ")
    if scheme != ALGORITHM:
        if _OTHER_SCHEMES.match(f"{scheme} "):
            raise InvalidRequest(message=_WRONG_MECHANISM)
        raise InvalidArgument(
            "Authorization", printable(header), message="Unsupported Authorization Type"
        )
    parts: dict[str, str] = {}
    for piece in rest.split(","):
        name, _, value = piece.strip().partition("=")
        if name in parts or name not in _HEADER_PARTS:  # also a second header: repeats are joined
            raise AuthorizationHeaderMalformed(
                message="The authorization header is malformed; it has an unknown or a repeated part."
            )
        parts[name] = value
    for needed in _HEADER_PARTS:
        if not parts.get(needed):
            raise AuthorizationHeaderMalformed(
                message=f"The authorization header is malformed; missing {needed}."
            )
    scope = parse_scope(parts["Credential"])
    if isinstance(scope, str):
        raise AuthorizationHeaderMalformed(message=_malformed(scope))
    if scope[2] != region:
        raise AuthorizationHeaderMalformed(region, message=_wrong_region(scope[2], region))
    signed_headers = _parse_signed_headers(parts["SignedHeaders"])
    return _credential(scope, signed_headers), parts["Signature"]


def _parse_query(head: RequestHead, region: str, now_ms: int) -> Claim:
    params = head.params
    for name in _QUERY_NAMES:
        if not params.get(name):
            raise AuthorizationQueryParametersError(
                message="Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential,"
                " X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
            )
    if params["X-Amz-Algorithm"] != ALGORITHM:
        raise AuthorizationQueryParametersError(
            message='X-Amz-Algorithm only supports "AWS4-HMAC-SHA256"'
        )
    scope = parse_scope(params["X-Amz-Credential"])
    if isinstance(scope, str):
        raise AuthorizationQueryParametersError(
            message=f"Error parsing the X-Amz-Credential parameter; {scope}"
        )
    access_key, date, claimed_region = scope
    if claimed_region != region:
        raise AuthorizationQueryParametersError(
            region,
            message=f"Error parsing the X-Amz-Credential parameter; {_wrong_region(claimed_region, region)}",
        )
    _refuse_session_token(head)
    timestamp = params["X-Amz-Date"]
    start_s = parse_amz_date(timestamp)
    if start_s is None:
        raise AuthorizationQueryParametersError(
            message="X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\""
        )
    if timestamp[:8] != date:
        raise AuthorizationQueryParametersError(
            message=f'Invalid credential date "{date}". This date is not the same as X-Amz-Date: "{timestamp[:8]}".'
        )
    _check_expiry(start_s, params["X-Amz-Expires"], now_ms)
    signed_headers = _parse_signed_headers(params["X-Amz-SignedHeaders"])
    return Claim(
        access_key=access_key,
        date=date,
        region=region,
        timestamp=timestamp,
        signed_headers=signed_headers,
        signature=params["X-Amz-Signature"],
        presigned=True,
        payload=_presigned_payload(head, signed_headers),
        scope=_scope(date, region),
    )


def parse_scope(credential: str) -> tuple[str, str, str] | str:
    """Access key, date and region of a credential; a text that says what is wrong with it otherwise."""
    fields = credential.rsplit("/", 4)
    if len(fields) != 5 or not fields[0]:
        return 'the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".'
    access_key, date, region, service, terminator = fields
    if parse_amz_date(f"{date}T000000Z") is None:
        return f'incorrect date format "{date}". This date in the credential must be in the format "yyyyMMdd".'
    if service != "s3":
        return f'incorrect service "{service}". This endpoint belongs to "s3".'
    if terminator != "aws4_request":
        return f'incorrect terminal "{terminator}". This endpoint uses "aws4_request".'
    return access_key, date, region


def _malformed(why: str) -> str:
    return f"The authorization header is malformed; {why}"


def _wrong_region(claimed: str, region: str) -> str:
    return f"the region '{claimed}' is wrong; expecting '{region}'"


def _parse_signed_headers(text: str) -> tuple[str, ...]:
    """The names in order. Strangers fill the cache, so long lists stay out of it."""
    if len(text) > _CACHED_CHARS_MAX:
        return _parse_signed_headers_once.__wrapped__(text)
    return _parse_signed_headers_once(text)


@lru_cache(maxsize=1024)
def _parse_signed_headers_once(text: str) -> tuple[str, ...]:
    return tuple(sorted(name.strip().lower() for name in text.split(";")))


def _refuse_session_token(head: RequestHead) -> None:
    token = head.headers.get("x-amz-security-token") or head.params.get("X-Amz-Security-Token")
    if token is not None:
        raise InvalidToken(printable(token))


def _header_timestamp(head: RequestHead) -> str:
    """``x-amz-date``, else ``Date``, in the form that is signed. Raises: AccessDenied."""
    text = head.headers.get("x-amz-date")
    if text is not None:
        if parse_amz_date(text) is not None:
            return text
        seconds = parse_http_date(text)
    else:
        text = head.headers.get("date", "")
        seconds = parse_http_date(text)
        if seconds is None:
            seconds = parse_amz_date(text)
    if seconds is None:
        raise AccessDenied(message="AWS authentication requires a valid Date or x-amz-date header")
    return format_amz_date(seconds)


def _check_skew(timestamp: str, now_ms: int) -> None:
    sent_s = parse_amz_date(timestamp)
    assert sent_s is not None, "the timestamp was parsed before"
    if abs(now_ms - sent_s * 1000) > CLOCK_SKEW_S_MAX * 1000:
        skew_ms = str(int(CLOCK_SKEW_S_MAX * 1000))
        raise RequestTimeTooSkewed(timestamp, format_iso(now_ms // 1000), skew_ms)


def _check_expiry(start_s: int, expires: str, now_ms: int) -> None:
    if not _NUMBER.fullmatch(expires):
        raise AuthorizationQueryParametersError(
            message="X-Amz-Expires must be a non-negative number of seconds"
        )
    expires_s = int(expires)
    if expires_s > EXPIRES_S_MAX:
        raise AuthorizationQueryParametersError(
            message="X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires"
            " must be less than 604800 seconds"
        )
    values = (expires, format_iso(start_s + expires_s), format_iso(now_ms // 1000))
    if now_ms >= (start_s + expires_s) * 1000:
        raise RequestExpired(*values)
    if now_ms < (start_s - CLOCK_SKEW_S_MAX) * 1000:
        raise RequestExpired(*values, message="Request is not yet valid")


def parse_payload(text: str) -> Payload:
    """Read a value of ``x-amz-content-sha256``. Raises: InvalidArgument."""
    payload = _KNOWN_PAYLOADS.get(text)
    if payload is None:
        if _HEX_64.fullmatch(text):
            return Payload(mode=PayloadMode.SIGNED, text=text, sha256=bytes.fromhex(text))
        raise InvalidArgument(
            "x-amz-content-sha256",
            printable(text),
            message="x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER,"
            " STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 value.",
        )
    return payload


def _header_payload(head: RequestHead) -> Payload:
    text = head.headers.get("x-amz-content-sha256")
    if text is None:
        raise InvalidRequest(
            message="Missing required header for this request: x-amz-content-sha256"
        )
    return parse_payload(text)


def _presigned_payload(head: RequestHead, signed_headers: tuple[str, ...]) -> Payload:
    """The signed header or parameter, else UNSIGNED-PAYLOAD: an unsigned header proves nothing (s3.md 3.1)."""
    if "x-amz-content-sha256" in signed_headers:
        return parse_payload(head.headers.get("x-amz-content-sha256", ""))
    for name, value in head.query:
        if name.lower() == "x-amz-content-sha256":
            return parse_payload(value)
    return UNSIGNED


# --- step two: whether it is true -------------------------------------------------------------------
def verify(claim: Claim, secret_key: str, head: RequestHead, keys: SigningKeys) -> Verified:
    """Prove ``claim`` with the secret of its access key.

    Raises: HeadersNotSigned, SignatureDoesNotMatch, InvalidAccessKeyId (an empty secret proves nothing).
    """
    if not secret_key:
        raise InvalidAccessKeyId(claim.access_key)
    _check_all_signed(claim, head)
    signing_key = keys.derive(secret_key, claim.date, claim.region)
    provided = claim.signature.encode("utf-8", "replace")
    first: S3Error | None = None
    for canonical in canonical_requests(head, claim.signed_headers, claim.payload.text):
        to_sign = string_to_sign(claim, canonical)
        if hmac.compare_digest(signing_key.sign(to_sign).encode(), provided):
            return Verified(
                access_key=claim.access_key,
                presigned=claim.presigned,
                payload=claim.payload,
                seed_signature=claim.signature,
                timestamp=claim.timestamp,
                scope=claim.scope,
                signing_key=signing_key,
            )
        first = first or _mismatch(claim, canonical, to_sign)
    assert first is not None, "there is at least one canonical request"
    raise first


def string_to_sign(claim: Claim, canonical: bytes) -> str:
    """What is signed: a digest of the canonical request, with time and scope (SigV4)."""
    digest = hashlib.sha256(canonical).hexdigest()
    return f"{ALGORITHM}\n{claim.timestamp}\n{claim.scope}\n{digest}"


def _mismatch(claim: Claim, canonical: bytes, to_sign: str) -> SignatureDoesNotMatch:
    return SignatureDoesNotMatch(
        claim.access_key,
        to_sign,
        claim.signature,
        to_sign.encode().hex(" "),
        canonical.decode("utf-8", "replace"),
        canonical.hex(" "),
    )


def _check_all_signed(claim: Claim, head: RequestHead) -> None:
    """``host`` and every ``x-amz-*`` header must be signed, or a stranger could add them (s3.md 3.1)."""
    unsigned = head.headers.keys() - claim.signed_headers
    loose = [name for name in unsigned if name.startswith("x-amz-")]
    if "host" in claim.signed_headers and (not loose or loose == ["x-amz-content-sha256"]):
        return
    names = [name for name in head.headers if name in loose and name != "x-amz-content-sha256"]
    if "host" not in claim.signed_headers:
        names.insert(0, "host")
    raise HeadersNotSigned(", ".join(names))
