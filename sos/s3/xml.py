"""Documents: requests by lxml, answers by joining strings. Pure.

Source: s3.md 1.0, 2.5, 9 (S3 API, response elements). Answers are built by hand because AWS writes characters as
``&#x1;`` that XML 1.0 forbids and lxml refuses, and because lists are on a hot path.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from lxml import etree

from sos.catalog.model import (
    Checksum,
    Deleted,
    DeleteEntry,
    Rejection,
    Versioning,
    VersionNumber,
)
from sos.limits import DELETE_KEYS_MAX, KEY_BYTES_MAX
from sos.s3.checksums import FULL_OBJECT
from sos.s3.dates import format_iso
from sos.s3.errors import (
    FeatureNotImplemented,
    KeyTooLongError,
    MalformedXML,
    S3Error,
)
from sos.s3.head import printable
from sos.s3.listing import BucketPage
from sos.s3.operations import ListBuckets
from sos.s3.refusals import Subject, s3_error_for

XmlNode: TypeAlias = "etree._Element"  # noqa: SLF001 - the stubs have no public name
DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_DIRECTORY_BUCKETS: Final = frozenset({"Location", "Bucket", "Tags"})

# Markup, CR (a parser would turn it into LF), and what XML 1.0 forbids (2.2, Char).
_SPECIAL: Final = re.compile('[&<>"\r\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]')
_NAMED: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;"}
find_special: Final = (
    _SPECIAL.search
)  # for loops that call ``escape`` only where it changes something


def escape(text: str) -> str:
    """``text`` as XML character data (s3.md 2.5)."""
    return _SPECIAL.sub(_escape_one, text) if find_special(text) else text


def _escape_one(found: re.Match[str]) -> str:
    character = found[0]
    return _NAMED.get(character) or f"&#x{ord(character):x};"


def element(name: str, text: str) -> str:
    """One element with character data."""
    return f"<{name}>{escape(text)}</{name}>"


def document(root: str, *content: str) -> bytes:
    """A whole answer with S3's namespace."""
    body = "".join(content)
    return f'{DECLARATION}<{root} xmlns="{NAMESPACE}">{body}</{root}>'.encode()


# --- requests ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteRequest:
    """The document of a DeleteObjects; ``quiet`` answers only errors."""

    quiet: bool
    entries: tuple[DeleteEntry, ...]


def parse_document(data: bytes, root: str) -> etree._Element:
    """The root element. No DTD, no entities, no network; namespace optional. Raises: MalformedXML."""
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    if b"<!DOCTYPE" in data:  # before anything could expand; other encodings are caught below
        raise MalformedXML()
    try:
        top = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise MalformedXML() from error
    if top.getroottree().docinfo.internalDTD is not None or local_name(top) != root:
        raise MalformedXML()
    return top


def local_name(node: etree._Element) -> str:
    """An element's name without its namespace."""
    tag = node.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def parse_delete(data: bytes) -> DeleteRequest:
    """Read the body of a DeleteObjects (s3.md 1.1.7). Raises: MalformedXML, KeyTooLongError, NotImplemented."""
    quiet = False
    entries = []
    for child in parse_document(data, "Delete"):
        name = local_name(child)
        if name == "Object":
            entries.append(_parse_entry(child))
        elif name == "Quiet":
            quiet = (child.text or "").strip().lower() == "true"
    if not 1 <= len(entries) <= DELETE_KEYS_MAX:
        raise MalformedXML()
    return DeleteRequest(quiet=quiet, entries=tuple(entries))


def _parse_entry(node: etree._Element) -> DeleteEntry:
    found: dict[str, str] = {}
    for child in node:
        name = local_name(child)
        if name in ("Size", "LastModifiedTime"):
            raise FeatureNotImplemented(name, "Conditional deletes by size or time")
        if name in found:
            raise MalformedXML()
        found[name] = child.text or ""
    key = found.get("Key", "")
    if not key:
        raise MalformedXML()
    if len(key) * 4 > KEY_BYTES_MAX and len(key.encode()) > KEY_BYTES_MAX:
        raise KeyTooLongError(str(len(key.encode())), str(KEY_BYTES_MAX))
    etag = found.get("ETag")
    return DeleteEntry(
        key=key,
        etag=etag.strip().strip('"') if etag is not None else None,
        version_id=found.get("VersionId"),
    )


def parse_create_bucket(data: bytes) -> str | None:
    """The location constraint in the body of a CreateBucket, if any. Raises: MalformedXML, NotImplemented."""
    if not data:
        return None
    constraint = None
    for child in parse_document(data, "CreateBucketConfiguration"):
        name = local_name(child)
        if name == "LocationConstraint":
            constraint = (child.text or "").strip()
        elif name in _DIRECTORY_BUCKETS:
            raise FeatureNotImplemented(name, "CreateBucketConfiguration")
    return constraint


# --- answers ----------------------------------------------------------------------------------------
def render_error(error: S3Error, *, resource: str, request_id: str, host_id: str) -> bytes:
    """The ``<Error>`` document, which has no namespace (s3.md 9). ``resource``: ``/bucket/key``."""
    parts = [element("Code", error.code), element("Message", printable(error.message))]
    parts += [element(name, printable(value)) for name, value in error.fields]
    names = {name for name, _ in error.fields}
    if names.isdisjoint(("BucketName", "Key")):
        parts.append(element("Resource", printable(resource)))
    parts += [element("RequestId", request_id), element("HostId", host_id)]
    return f"{DECLARATION}<Error>{''.join(parts)}</Error>".encode()


def render_owner(owner_id: str) -> str:
    """An ``Owner`` element. AWS sends no DisplayName any more (seen)."""
    return f"<Owner><ID>{owner_id}</ID></Owner>"


def render_list_buckets(
    operation: ListBuckets, page: BucketPage, *, owner_id: str, region: str
) -> bytes:
    """ListAllMyBucketsResult."""
    shown_region = element("BucketRegion", region) if operation.shows_region else ""
    parts = [render_owner(owner_id), "<Buckets>"]
    for bucket in page.buckets:
        name = escape(bucket.name)
        created = format_iso(bucket.created_ms // 1000)
        parts.append(
            f"<Bucket><Name>{name}</Name><CreationDate>{created}</CreationDate>{shown_region}"
            f"<BucketArn>{bucket_arn(name)}</BucketArn></Bucket>"
        )
    parts.append("</Buckets>")
    if page.next_token is not None:
        parts.append(element("ContinuationToken", page.next_token))
    if operation.shows_region:
        parts.append(element("Prefix", operation.prefix))
    return document("ListAllMyBucketsResult", *parts)


def bucket_arn(bucket: str) -> str:
    """A bucket's Amazon resource name."""
    return f"arn:aws:s3:::{bucket}"


def render_location(region: str) -> bytes:
    """LocationConstraint; the element is empty for us-east-1 (S3 API: GetBucketLocation)."""
    return document("LocationConstraint", "" if region == "us-east-1" else escape(region))


def parse_versioning(data: bytes) -> Versioning:
    """The state that a VersioningConfiguration asks for. Raises: MalformedXML, NotImplemented (MFA delete)."""
    state = None
    for child in parse_document(data, "VersioningConfiguration"):
        name, text = local_name(child), (child.text or "").strip()
        if name == "Status":
            state = _VERSIONING.get(text)
            if state is None:
                raise MalformedXML()
        elif name == "MfaDelete":
            if text not in ("Enabled", "Disabled"):
                raise MalformedXML()
            if text == "Enabled":
                raise FeatureNotImplemented("MfaDelete", "VersioningConfiguration")
    if state is None:
        raise MalformedXML()
    return state


_VERSIONING: Final = {"Enabled": Versioning.ENABLED, "Suspended": Versioning.SUSPENDED}


def render_versioning(state: Versioning) -> bytes:
    """VersioningConfiguration; empty for a bucket that was never versioned (S3 API: GetBucketVersioning)."""
    status = "" if state is Versioning.NEVER else element("Status", state.name.capitalize())
    return document("VersioningConfiguration", status)


def render_copy_result(*, etag: str, modified_ms: int, checksum: Checksum) -> bytes:
    """CopyObjectResult."""
    digest = b64encode(checksum.digest).decode()
    return document(
        "CopyObjectResult",
        element("LastModified", format_iso(modified_ms // 1000)),
        element("ETag", f'"{etag}"'),
        element(f"Checksum{checksum.algorithm.name}", digest),
        element("ChecksumType", FULL_OBJECT),
    )


def render_delete_result(
    request: DeleteRequest,
    outcomes: Sequence[Rejection | Deleted | S3Error | None],
    id_of: Callable[[VersionNumber], str],
) -> bytes:
    """DeleteResult, in request order. ``outcomes``: per entry, ``None`` for deleted (or absent)."""
    parts = []
    for entry, outcome in zip(request.entries, outcomes, strict=True):
        named = element("Key", entry.key)
        if entry.version_id is not None:
            named += element("VersionId", entry.version_id)
        if not isinstance(outcome, Rejection | S3Error):
            if not request.quiet:
                marker = ""
                if outcome is not None and outcome.is_marker:
                    made = element("DeleteMarkerVersionId", id_of(outcome.version))
                    marker = f"<DeleteMarker>true</DeleteMarker>{made}"
                parts.append(f"<Deleted>{named}{marker}</Deleted>")
            continue
        subject = Subject(key=entry.key, version_id=entry.version_id or "")
        error = outcome if isinstance(outcome, S3Error) else s3_error_for(outcome, subject)
        parts.append(
            f"<Error>{named}{element('Code', error.code)}{element('Message', error.message)}</Error>"
        )
    return document("DeleteResult", *parts)
