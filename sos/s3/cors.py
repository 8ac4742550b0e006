"""Cross-origin resource sharing: the configuration of a bucket, and what browsers are told. Pure.

Source: s3.md 1.3 (S3 API: PutBucketCors; UG: cors; Fetch standard, 3.2). The first rule that matches counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sos.packing import pack, unpack
from sos.s3.errors import InvalidRequest, MalformedXML
from sos.s3.xml import document, element, local_name, parse_document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sos.s3.xml import XmlNode

Headers = list[tuple[str, str]]

RULES_MAX: Final = 100
_METHODS: Final = frozenset({"GET", "PUT", "POST", "DELETE", "HEAD"})
_ID_CHARS_MAX: Final = 255
_VARY: Final = (
    "Vary",
    "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsRule:
    """One ``CORSRule``. A ``*`` in an origin or a header stands for any characters."""

    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    max_age_s: int | None = None
    name: str = ""


def parse_cors(data: bytes) -> tuple[CorsRule, ...]:
    """The rules of a ``CORSConfiguration``. Raises: MalformedXML, InvalidRequest."""
    nodes = parse_document(data, "CORSConfiguration")
    rules = tuple(_parse_rule(node) for node in nodes if local_name(node) == "CORSRule")
    if not 1 <= len(rules) <= RULES_MAX:
        raise MalformedXML()
    return rules


def _parse_rule(node: XmlNode) -> CorsRule:
    found: dict[str, list[str]] = {}
    for child in node:
        found.setdefault(local_name(child), []).append((child.text or "").strip())
    origins, methods = found.get("AllowedOrigin", []), found.get("AllowedMethod", [])
    if not origins or not methods:
        raise MalformedXML()
    for method in methods:
        if method not in _METHODS:
            raise InvalidRequest(
                message=f"Found unsupported HTTP method in CORS config. Unsupported method is {method}"
            )
    headers = found.get("AllowedHeader", [])
    for kind, texts in (("AllowedOrigin", origins), ("AllowedHeader", headers)):
        for text in texts:
            if text.count("*") > 1:
                raise InvalidRequest(
                    message=f'{kind} "{text}" can not have more than one wildcard.'
                )
    for text in found.get("ExposeHeader", []):
        if "*" in text:
            raise InvalidRequest(
                message=f'ExposeHeader "{text}" contains wildcard. We currently do not support wildcard'
                " for ExposeHeader."
            )
    name = found.get("ID", [""])[0]
    if len(name) > _ID_CHARS_MAX:
        raise InvalidRequest(message="The ID of a CORS rule has at most 255 characters.")
    return CorsRule(
        origins=tuple(origins),
        methods=tuple(methods),
        headers=tuple(headers),
        exposed=tuple(found.get("ExposeHeader", [])),
        max_age_s=_parse_age(found.get("MaxAgeSeconds")),
        name=name,
    )


def _parse_age(texts: list[str] | None) -> int | None:
    if texts is None:
        return None
    if not texts[0].isascii() or not texts[0].isdigit() or len(texts[0]) > 9:
        raise MalformedXML()
    return int(texts[0])


def render_cors(rules: Sequence[CorsRule]) -> bytes:
    """``CORSConfiguration``."""
    return document("CORSConfiguration", *map(_render_rule, rules))


def _render_rule(rule: CorsRule) -> str:
    parts = [element("ID", rule.name)] if rule.name else []
    for name, texts in (
        ("AllowedOrigin", rule.origins),
        ("AllowedMethod", rule.methods),
        ("AllowedHeader", rule.headers),
        ("ExposeHeader", rule.exposed),
    ):
        parts += [element(name, text) for text in texts]
    if rule.max_age_s is not None:
        parts.append(element("MaxAgeSeconds", str(rule.max_age_s)))
    return f"<CORSRule>{''.join(parts)}</CORSRule>"


def pack_cors(rules: Sequence[CorsRule]) -> bytes:
    """The rules as the bucket's setting keeps them."""
    return pack(
        [
            (rule.origins, rule.methods, rule.headers, rule.exposed, rule.max_age_s, rule.name)
            for rule in rules
        ]
    )


def unpack_cors(data: bytes) -> tuple[CorsRule, ...]:
    """Rules from ``pack_cors``."""
    return tuple(
        CorsRule(
            origins=tuple(origins),
            methods=tuple(methods),
            headers=tuple(headers),
            exposed=tuple(exposed),
            max_age_s=max_age_s,
            name=name,
        )
        for origins, methods, headers, exposed, max_age_s, name in unpack(data)
    )


# --- what browsers are told -------------------------------------------------------------------------
def preflight_headers(
    rules: Sequence[CorsRule], *, origin: str, method: str, requested: str
) -> Headers | None:
    """The answer to OPTIONS; ``None``: no rule matches. ``requested``: ``Access-Control-Request-Headers``."""
    names = [name.strip().lower() for name in requested.split(",") if name.strip()]
    for rule in rules:
        allows = all(_matches_any(rule.headers, name, fold=True) for name in names)
        if method in rule.methods and allows and _matches_any(rule.origins, origin):
            headers = _origin_headers(rule, origin)
            if names:
                headers.append(("Access-Control-Allow-Headers", ", ".join(names)))
            return headers
    return None


def response_headers(rules: Sequence[CorsRule], *, origin: str, method: str) -> Headers:
    """What the answer to a real request carries, errors too; nothing, if no rule matches."""
    for rule in rules:
        if method in rule.methods and _matches_any(rule.origins, origin):
            return _origin_headers(rule, origin)
    return []


def _origin_headers(rule: CorsRule, origin: str) -> Headers:
    is_any = "*" in rule.origins
    headers = [("Access-Control-Allow-Origin", "*" if is_any else origin)]
    if not is_any:
        headers.append(("Access-Control-Allow-Credentials", "true"))
    headers.append(("Access-Control-Allow-Methods", ", ".join(rule.methods)))
    if rule.exposed:
        headers.append(("Access-Control-Expose-Headers", ", ".join(rule.exposed)))
    if rule.max_age_s is not None:
        headers.append(("Access-Control-Max-Age", str(rule.max_age_s)))
    headers.append(_VARY)
    return headers


def _matches_any(patterns: Sequence[str], text: str, *, fold: bool = False) -> bool:
    return any(_matches(pattern.lower() if fold else pattern, text) for pattern in patterns)


def _matches(pattern: str, text: str) -> bool:
    before, star, after = pattern.partition("*")
    if not star:
        return pattern == text
    fits = len(text) >= len(before) + len(after)
    return fits and text.startswith(before) and text.endswith(after)
