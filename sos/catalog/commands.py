"""Versioned bytes of commands: one encoder and one decoder each, written by hand because a PUT pays for them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from sos.catalog import upload_commands
from sos.catalog.fields import (
    ALGORITHM_NUMBERS,
    ALGORITHMS,
    access_key_id,
    blob_id,
    body_fields,
    body_from,
    bucket_name,
    checksum_fields,
    checksum_from,
    condition_fields,
    condition_from,
    etag_field,
    exact_bytes,
    flag,
    headers_fields,
    headers_from,
    items,
    key_text,
    node_id,
    number,
    refuse,
    source_condition_fields,
    source_condition_from,
    tags_from,
    text,
    text_or_none,
    version_or_none,
)
from sos.catalog.model import (
    BucketSetting,
    Checksum,
    Command,
    CopyObject,
    CreateAccessKey,
    CreateBucket,
    DeleteBucket,
    DeleteEntry,
    DeleteObject,
    DeleteObjects,
    NewBytes,
    PutBucketSetting,
    PutObject,
    PutObjectTags,
    RaiseSweepFloor,
    ReportHolders,
    RevokeAccessKey,
    SetVersioning,
    Versioning,
)
from sos.levels import FIRST, SECOND, UNKNOWN
from sos.packing import PackingError, pack, unpack

_Value = TypeVar("_Value")


# --- encoders ---------------------------------------------------------------------------
# What a later release added to a command is one more field of version 2, a list; without any of it, version 1 is written.
def _put_object_fields(c: PutObject) -> tuple[object, ...]:
    if c.tags or c.acl or c.access_epoch:
        return (3, 2, *_plain_put_fields(c), (c.tags, c.acl, c.access_epoch))
    return (3, 1, *_plain_put_fields(c))


def _plain_put_fields(c: PutObject) -> tuple[object, ...]:
    return (
        c.access_key,
        c.bucket,
        c.key,
        body_fields(c.body),
        etag_field(c.etag, c.md5),
        c.md5,
        c.modified_ms,
        ALGORITHM_NUMBERS[c.checksum.algorithm],
        c.checksum.digest,
        headers_fields(c.headers),
        condition_fields(c.condition),
    )


def _copy_object_fields(c: CopyObject) -> tuple[object, ...]:
    more = (
        c.source_version,
        c.tags,
        c.acl,
        None if c.new is None else (body_fields(c.new.body), c.new.md5),
        c.access_epoch,
    )
    if more != _NOTHING_MORE_TO_COPY:
        return (4, 2, *_plain_copy_fields(c), more)
    return (4, 1, *_plain_copy_fields(c))


_NOTHING_MORE_TO_COPY: Final = (None, None, "", None, 0)


def _plain_copy_fields(c: CopyObject) -> tuple[object, ...]:
    return (
        c.access_key,
        c.source_bucket,
        c.source_key,
        c.bucket,
        c.key,
        c.modified_ms,
        headers_fields(c.headers),
        checksum_fields(c.checksum),
        c.expect_commit_index,
        c.changes_something,
        source_condition_fields(c.source_condition),
        condition_fields(c.condition),
    )


def _delete_object_fields(c: DeleteObject) -> tuple[object, ...]:
    plain = (c.access_key, c.bucket, c.key, condition_fields(c.condition))
    if c.version is None and not c.modified_ms and not c.access_epoch:
        return (5, 1, *plain)
    return (5, 2, *plain, (c.modified_ms, c.version, c.access_epoch))


def _delete_objects_fields(c: DeleteObjects) -> tuple[object, ...]:
    if not c.modified_ms and not c.access_epoch and all(e.version is None for e in c.entries):
        entries = [(entry.key, entry.etag, entry.version_id) for entry in c.entries]
        return (6, 1, c.access_key, c.bucket, entries)
    versions = [(entry.key, entry.etag, entry.version_id, entry.version) for entry in c.entries]
    return (6, 2, c.access_key, c.bucket, versions, (c.modified_ms, c.access_epoch))


def _create_access_key_fields(c: CreateAccessKey) -> tuple[object, ...]:
    plain = (c.access_key, c.secret_key, c.created_ms)
    more = (c.name, c.read_only, c.buckets, c.prefixes)
    return (9, 1, *plain) if more == _UNLIMITED else (9, 2, *plain, more)


_UNLIMITED: Final = ("", False, (), ())
_COMMAND_FIELDS: Final[dict[type, Callable[[Any], tuple[object, ...]]]] = {
    CreateBucket: lambda c: (1, 1, c.access_key, c.bucket, c.created_ms),
    DeleteBucket: lambda c: (2, 1, c.access_key, c.bucket),
    PutObject: _put_object_fields,
    CopyObject: _copy_object_fields,
    DeleteObject: _delete_object_fields,
    DeleteObjects: _delete_objects_fields,
    ReportHolders: lambda c: (7, 1, c.node, c.sequence, c.gained, c.lost),
    RaiseSweepFloor: lambda c: (8, 1, c.floor_index),
    CreateAccessKey: _create_access_key_fields,
    RevokeAccessKey: lambda c: (10, 1, c.access_key),
    SetVersioning: lambda c: (11, 1, c.access_key, c.bucket, c.versioning.value, c.access_epoch),
    PutBucketSetting: lambda c: (
        30,
        1,
        c.access_key,
        c.bucket,
        c.setting.value,
        c.document,
        c.access_epoch,
    ),
    PutObjectTags: lambda c: (
        31,
        1,
        c.access_key,
        c.bucket,
        c.key,
        c.tags,
        c.version,
        c.access_epoch,
    ),
    **upload_commands.ENCODERS,
}


def encode_command(command: Command) -> bytes:
    """The bytes of ``command`` as they stand in an operation."""
    return pack(_COMMAND_FIELDS[type(command)](command))


# --- commands: decoders ---------------------------------------------------------------------------
def _create_bucket(fields: list[Any]) -> CreateBucket:
    access_key, bucket, created_ms = fields
    return CreateBucket(
        access_key=access_key_id(access_key),
        bucket=bucket_name(bucket),
        created_ms=number(created_ms),
    )


def _delete_bucket(fields: list[Any]) -> DeleteBucket:
    access_key, bucket = fields
    return DeleteBucket(access_key=access_key_id(access_key), bucket=bucket_name(bucket))


def _put_object(fields: list[Any]) -> PutObject:
    (
        access_key,
        bucket,
        key,
        body,
        etag,
        md5,
        modified_ms,
        algorithm,
        digest,
        headers,
        condition,
        *more,
    ) = fields
    tags, acl, access_epoch = items(more[0]) if more else ([], "", 0)
    if type(digest) is not bytes or not 4 <= len(digest) <= 32:
        raise refuse("digest")
    md5 = exact_bytes(md5, 16)
    return PutObject(
        access_key=access_key_id(access_key),
        bucket=bucket_name(bucket),
        key=key_text(key),
        body=body_from(body),
        etag=text(etag) or md5.hex(),
        md5=md5,
        modified_ms=number(modified_ms),
        checksum=Checksum(algorithm=ALGORITHMS[algorithm], digest=digest),
        headers=headers_from(headers),
        condition=condition_from(condition),
        tags=tags_from(tags),
        acl=text(acl),
        access_epoch=number(access_epoch),
    )


def _new_bytes(value: object) -> NewBytes:
    body, md5 = items(value)
    return NewBytes(body=body_from(body), md5=exact_bytes(md5, 16))


def _copy_object(fields: list[Any]) -> CopyObject:
    (
        access_key,
        source_bucket,
        source_key,
        bucket,
        key,
        modified_ms,
        headers,
        checksum,
        expect,
        changes,
        source_condition,
        condition,
        *more,
    ) = fields
    version, tags, acl, new, access_epoch = items(more[0]) if more else _NOTHING_MORE_TO_COPY
    return CopyObject(
        access_key=access_key_id(access_key),
        source_bucket=bucket_name(source_bucket),
        source_key=key_text(source_key),
        bucket=bucket_name(bucket),
        key=key_text(key),
        modified_ms=number(modified_ms),
        headers=None if headers is None else headers_from(headers),
        checksum=None if checksum is None else checksum_from(checksum),
        expect_commit_index=None if expect is None else number(expect),
        changes_something=flag(changes),
        source_condition=source_condition_from(source_condition),
        condition=condition_from(condition),
        source_version=version_or_none(version),
        tags=None if tags is None else tags_from(tags),
        acl=text(acl),
        new=None if new is None else _new_bytes(new),
        access_epoch=number(access_epoch),
    )


def _delete_object(fields: list[Any]) -> DeleteObject:
    access_key, bucket, key, condition, *more = fields
    modified_ms, version, access_epoch = items(more[0]) if more else (0, None, 0)
    return DeleteObject(
        access_key=access_key_id(access_key),
        bucket=bucket_name(bucket),
        key=key_text(key),
        condition=condition_from(condition),
        modified_ms=number(modified_ms),
        version=version_or_none(version),
        access_epoch=number(access_epoch),
    )


def _delete_entry(fields: list[Any]) -> DeleteEntry:
    key, etag, version_id, *more = fields
    (version,) = more or (None,)
    return DeleteEntry(
        key=key_text(key),
        etag=text_or_none(etag),
        version_id=text_or_none(version_id),
        version=version_or_none(version),
    )


def _delete_objects(fields: list[Any]) -> DeleteObjects:
    access_key, bucket, entries, *more = fields
    modified_ms, access_epoch = items(more[0]) if more else (0, 0)
    return DeleteObjects(
        access_key=access_key_id(access_key),
        bucket=bucket_name(bucket),
        entries=tuple(_delete_entry(items(entry)) for entry in items(entries)),
        modified_ms=number(modified_ms),
        access_epoch=number(access_epoch),
    )


def _report_holders(fields: list[Any]) -> ReportHolders:
    node, sequence, gained, lost = fields
    return ReportHolders(
        node=node_id(node),
        sequence=number(sequence),
        gained=tuple(blob_id(blob) for blob in items(gained)),
        lost=tuple(blob_id(blob) for blob in items(lost)),
    )


def _raise_sweep_floor(fields: list[Any]) -> RaiseSweepFloor:
    (floor_index,) = fields
    return RaiseSweepFloor(floor_index=number(floor_index))


def _create_access_key(fields: list[Any]) -> CreateAccessKey:
    access_key, secret_key, created_ms, *more = fields
    name, read_only, buckets, prefixes = items(more[0]) if more else ("", False, [], [])
    return CreateAccessKey(
        access_key=access_key_id(access_key),
        secret_key=text(secret_key),
        created_ms=number(created_ms),
        name=text(name),
        read_only=flag(read_only),
        buckets=tuple(bucket_name(bucket) for bucket in items(buckets)),
        prefixes=tuple(text(prefix) for prefix in items(prefixes)),
    )


def _revoke_access_key(fields: list[Any]) -> RevokeAccessKey:
    (access_key,) = fields
    return RevokeAccessKey(access_key=access_key_id(access_key))


def _set_versioning(fields: list[Any]) -> SetVersioning:
    access_key, bucket, versioning, access_epoch = fields
    state = Versioning(number(versioning))
    if state is Versioning.NEVER:
        raise refuse("versioning state")
    return SetVersioning(
        access_key=access_key_id(access_key),
        bucket=bucket_name(bucket),
        versioning=state,
        access_epoch=number(access_epoch),
    )


def _put_bucket_setting(fields: list[Any]) -> PutBucketSetting:
    access_key, bucket, setting, document, access_epoch = fields
    if document is not None and type(document) is not bytes:
        raise refuse("document")
    return PutBucketSetting(
        access_key=access_key_id(access_key),
        bucket=bucket_name(bucket),
        setting=BucketSetting(number(setting)),
        document=document,
        access_epoch=number(access_epoch),
    )


def _put_object_tags(fields: list[Any]) -> PutObjectTags:
    access_key, bucket, key, tags, version, access_epoch = fields
    return PutObjectTags(
        access_key=access_key_id(access_key),
        bucket=bucket_name(bucket),
        key=key_text(key),
        tags=tags_from(tags),
        version=version_or_none(version),
        access_epoch=number(access_epoch),
    )


# Tags: 1-10 of the first level; 11-19 versions, 20-29 multipart, 30-39 settings, tags and forms, 40-49 keys and access.
_COMMANDS: Final[dict[tuple[int, int], Callable[[list[Any]], Command]]] = {
    (1, 1): _create_bucket,
    (2, 1): _delete_bucket,
    (3, 1): _put_object,
    (4, 1): _copy_object,
    (5, 1): _delete_object,
    (6, 1): _delete_objects,
    (7, 1): _report_holders,
    (8, 1): _raise_sweep_floor,
    (9, 1): _create_access_key,
    (10, 1): _revoke_access_key,
    (3, 2): _put_object,
    (4, 2): _copy_object,
    (5, 2): _delete_object,
    (6, 2): _delete_objects,
    (9, 2): _create_access_key,
    (11, 1): _set_versioning,
    (30, 1): _put_bucket_setting,
    (31, 1): _put_object_tags,
    **upload_commands.DECODERS,
}


# The release's level that brought each (tag, version): a new one gets the next level (``sos.levels``).
COMMAND_LEVELS: Final[dict[tuple[int, int], int]] = {
    (tag, version): FIRST if version == 1 and tag <= 10 else SECOND for tag, version in _COMMANDS
}
_LEVEL_OF_START: Final = {bytes(start): level for start, level in COMMAND_LEVELS.items()}


def command_level(data: bytes) -> int:
    """Which level a node needs to apply ``data``; the first for bytes that are no command of any release.

    Every proposal and every applied command passes here: three bytes tell it of what this release knows.
    """
    level = _LEVEL_OF_START.get(data[1:3])
    if (
        level is not None and data[0] & 0xF0 == 0x90
    ):  # an array of at most 15 fields, as msgpack has it
        return level
    try:
        fields = unpack(data)
    except PackingError:
        return FIRST
    match fields:
        case [int(tag), int(version), *_]:
            return COMMAND_LEVELS.get((tag, version), UNKNOWN)
    return FIRST


def decode_versioned(
    table: dict[tuple[int, int], Callable[[list[Any]], _Value]], data: bytes, what: str
) -> _Value:
    """The value in ``data`` by its tag and version. Raises: PackingError."""
    fields = unpack(data)
    try:
        return table[fields[0], fields[1]](fields[2:])
    except PackingError:
        raise
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise PackingError(f"not a valid {what}: {type(error).__name__}") from error


def decode_command(data: bytes) -> Command:
    """The command in ``data``. Raises: PackingError."""
    return decode_versioned(_COMMANDS, data, "command")
