"""S3's conditions on writes, deletes and copy sources (s3.md 4.2, 4.3). Pure."""

from __future__ import annotations

from sos.catalog.model import (
    CopySourceCondition,
    ObjectRecord,
    Rejection,
    WriteCondition,
)


def write_refusal(condition: WriteCondition, current: ObjectRecord | None) -> Rejection | None:
    """Why a write or a delete under ``condition`` may not replace ``current``; None: it may.

    A delete marker counts as absent.
    If-Match on an absent key is 404, not 412 (S3 API: PutObject).
    """
    if current is not None and current.is_marker:
        current = None
    match = condition.if_match
    if match is not None:
        if current is None:
            return Rejection.NO_SUCH_KEY
        if match not in ("*", current.etag):
            return Rejection.PRECONDITION_FAILED_IF_MATCH
    if condition.if_none_match_any and current is not None:
        return Rejection.PRECONDITION_FAILED_IF_NONE_MATCH
    return None


def source_allows(condition: CopySourceCondition, source: ObjectRecord) -> bool:
    """Whether ``x-amz-copy-source-if-*`` hold: the steps of RFC 9110, 13.2.2, in whole seconds."""
    modified_s = source.modified_ms // 1000
    if condition.if_match is not None:
        if not _names(condition.if_match, source.etag):
            return False
    elif (
        condition.if_unmodified_since_s is not None and modified_s > condition.if_unmodified_since_s
    ):
        return False
    if condition.if_none_match is not None:
        return not _names(condition.if_none_match, source.etag)
    return condition.if_modified_since_s is None or modified_s > condition.if_modified_since_s


def _names(etags: tuple[str, ...], etag: str) -> bool:
    return etag in etags or "*" in etags
