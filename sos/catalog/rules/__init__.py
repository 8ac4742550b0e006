"""All rules of the catalog: ``decide(view, command, position) -> Decision``.

Pure, total and deterministic: no clock, no randomness, no I/O; a refusal is a value. Every node decides the same
command at the same position against the same state, so every node writes the same rows. What a rule raises is a
bug of ours (an invariant of the state is broken), and the process stops rather than let replicas differ.
One module per noun. Refuses to know how rows are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sos.catalog.model import (
    AbortUpload,
    Command,
    CompleteUpload,
    CopyObject,
    CreateAccessKey,
    CreateBucket,
    CreateUpload,
    DeleteBucket,
    DeleteObject,
    DeleteObjects,
    Position,
    PutBucketSetting,
    PutObject,
    PutObjectTags,
    RaiseSweepFloor,
    ReportHolders,
    RevokeAccessKey,
    SetVersioning,
    UploadPart,
)
from sos.catalog.rules.blob import decide_raise_sweep_floor, decide_report_holders
from sos.catalog.rules.bucket import (
    decide_create_bucket,
    decide_delete_bucket,
    decide_put_bucket_setting,
    decide_set_versioning,
)
from sos.catalog.rules.key import decide_create_access_key, decide_revoke_access_key
from sos.catalog.rules.object import (
    decide_copy_object,
    decide_delete_object,
    decide_delete_objects,
    decide_put_object,
    decide_put_object_tags,
)
from sos.catalog.rules.upload import (
    decide_abort_upload,
    decide_complete_upload,
    decide_create_upload,
    decide_upload_part,
)
from sos.catalog.rules.view import CatalogView, Decision

__all__ = ["CatalogView", "Decision", "decide"]

# A table, not a match statement: one lookup instead of up to ten class tests for each operation.
_RULES: Final[dict[type, Callable[[CatalogView, Any, Position], Decision]]] = {
    CreateBucket: decide_create_bucket,
    DeleteBucket: decide_delete_bucket,
    PutObject: decide_put_object,
    CopyObject: decide_copy_object,
    DeleteObject: decide_delete_object,
    DeleteObjects: decide_delete_objects,
    ReportHolders: decide_report_holders,
    RaiseSweepFloor: decide_raise_sweep_floor,
    CreateAccessKey: decide_create_access_key,
    RevokeAccessKey: decide_revoke_access_key,
    SetVersioning: decide_set_versioning,
    PutBucketSetting: decide_put_bucket_setting,
    PutObjectTags: decide_put_object_tags,
    CreateUpload: decide_create_upload,
    UploadPart: decide_upload_part,
    CompleteUpload: decide_complete_upload,
    AbortUpload: decide_abort_upload,
}


def decide(view: CatalogView, command: Command, position: Position) -> Decision:
    """What ``command`` at ``position`` does to the catalog seen in ``view``."""
    return _RULES[type(command)](view, command, position)
