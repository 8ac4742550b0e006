"""Versions of keys against a model of a few lines: lists of (number, is marker, body), the newest last (s3.md 1.3, 6.5)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sos.catalog.audit import audit
from sos.catalog.model import (
    NULL_VERSION,
    Command,
    Deleted,
    DeletedMany,
    DeleteEntry,
    DeleteObjects,
    Result,
    SetVersioning,
    Stored,
    Versioning,
    VersionNumber,
    VersionPosition,
)
from sos.catalog.store import CatalogStore
from tests.unit.catalog_samples import (
    ROOT,
    Log,
    blob_body,
    create_bucket,
    delete,
    formation,
    put,
    run,
)

KEYS = ("a", "b", "k" * 401, "k" * 900)
TIME = 5


@dataclass
class One:
    """A version in the model; ``version`` is what its id is made from."""

    version: VersionNumber
    is_marker: bool
    size: int


@dataclass
class Model:
    """What S3's documentation says, without any cleverness."""

    versioning: Versioning = Versioning.NEVER
    keys: dict[str, list[One]] = field(default_factory=dict)

    def write(self, key: str, one: One) -> None:
        old = self.keys.setdefault(key, [])
        if self.versioning is Versioning.NEVER:
            old.clear()
        elif self.versioning is Versioning.SUSPENDED:
            old[:] = [each for each in old if each.version != NULL_VERSION]
        old.append(one)

    def delete(self, key: str, one: One) -> None:
        if self.versioning is Versioning.NEVER:
            self.keys.pop(key, None)
        else:
            self.write(key, one)

    def delete_version(self, key: str, version: VersionNumber) -> bool:
        """Whether it was a marker."""
        old = self.keys.get(key, [])
        gone = [one for one in old if one.version == version]
        old[:] = [one for one in old if one.version != version]
        if not old:
            self.keys.pop(key, None)
        return bool(gone) and gone[0].is_marker

    def listed(self) -> list[tuple[str, VersionNumber, bool, bool]]:
        return [
            (key, one.version, at == 0, one.is_marker)
            for key in sorted(self.keys)
            for at, one in enumerate(reversed(self.keys[key]))
        ]

    def visible(self) -> list[str]:
        return [key for key in sorted(self.keys) if not self.keys[key][-1].is_marker]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.integers(0, 3)),
        st.tuples(st.just("delete"), st.sampled_from(KEYS), st.integers(0, 3)),
        st.tuples(st.just("delete version"), st.sampled_from(KEYS), st.integers(0, 5)),
        st.tuples(st.just("delete many"), st.sampled_from(KEYS), st.integers(0, 7)),
        st.tuples(st.just("state"), st.sampled_from(["enable", "suspend"]), st.just(0)),
    ),
    max_size=40,
)


class Run:
    """The catalog and the model, step by step."""

    def __init__(self, path: Path) -> None:
        self.store = CatalogStore.create(path, formation())
        self.log = Log()
        self.model = Model()
        self.blobs = 0
        run(self.store, self.log, create_bucket())

    def do(self, command: Command) -> Result:
        return run(self.store, self.log, command)[0]

    def number(self) -> int:
        """Of the next command: each is alone in its entry."""
        return (self.log.index + 1) << 16

    def new_version(self) -> VersionNumber:
        enabled = self.model.versioning is Versioning.ENABLED
        return VersionNumber(self.number()) if enabled else NULL_VERSION

    def some_version(self, key: str, at: int) -> VersionNumber:
        versions = [one.version for one in self.model.keys.get(key, [])]
        return ([*versions, NULL_VERSION, VersionNumber(77 << 16)] * 6)[at]

    def step(self, kind: str, key: str, at: int) -> None:
        model = self.model
        match kind:
            case "state":
                state = Versioning.ENABLED if key == "enable" else Versioning.SUSPENDED
                self.do(SetVersioning(access_key=ROOT, bucket="bucket", versioning=state))
                model.versioning = state
            case "put":
                self.blobs += 1
                size = 100_000 + self.blobs
                version = self.new_version()
                result = self.do(put(key, blob_body(self.blobs, size=size)))
                assert isinstance(result, Stored)
                assert result.version == (None if model.versioning is Versioning.NEVER else version)
                model.write(key, One(version, is_marker=False, size=size))
            case "delete":
                version = self.new_version()
                time = 0 if model.versioning is Versioning.NEVER else TIME
                result = self.do(replace(delete(key), modified_ms=time))
                if model.versioning is not Versioning.NEVER:
                    assert result == Deleted(version=version, is_marker=True)
                model.delete(key, One(version, is_marker=True, size=0))
            case "delete version":
                if model.versioning is Versioning.NEVER:
                    return
                version = self.some_version(key, at)
                result = self.do(replace(delete(key), version=version))
                was_marker = model.delete_version(key, version)
                assert result == Deleted(version=version, is_marker=was_marker)
            case _:
                self.delete_many(key, at)

    def delete_many(self, key: str, at: int) -> None:
        """Versions of one key and a plain delete of it, in one command."""
        model = self.model
        if model.versioning is Versioning.NEVER:
            return
        one, two = self.some_version(key, at), self.some_version(key, at + 1)
        marker = self.new_version()
        entries = [DeleteEntry(key=key, version=one), DeleteEntry(key=key)]
        if at % 2:
            entries.append(DeleteEntry(key=key, version=two))
        result = self.do(
            DeleteObjects(
                access_key=ROOT, bucket="bucket", entries=tuple(entries), modified_ms=TIME
            )
        )
        assert isinstance(result, DeletedMany)
        expected: list[Any] = [
            Deleted(version=one, is_marker=model.delete_version(key, one)),
            Deleted(version=marker, is_marker=True),
        ]
        model.delete(key, One(marker, is_marker=True, size=0))
        if at % 2:
            expected.append(Deleted(version=two, is_marker=model.delete_version(key, two)))
        assert list(result.outcomes) == expected

    def check(self) -> None:
        with self.store.view() as view:
            bucket = view.bucket("bucket")
            assert bucket is not None
            model = self.model
            found: list[tuple[str, VersionNumber, bool, bool]] = []
            after: VersionPosition | None = None
            while True:
                page = view.list_versions(bucket.bucket_id, after=after, limit=3)
                found += [
                    (one.key, one.version, latest, one.is_marker)
                    for one, latest in zip(page.versions, page.is_latest, strict=True)
                ]
                if not page.truncated:
                    break
                after = page.last
            assert found == model.listed()
            keys = view.list_keys(bucket.bucket_id, limit=100)
            assert [one.key for one in keys.objects] == model.visible()
            everything = [one for ones in model.keys.values() for one in ones]
            assert bucket.object_count == len(model.visible())
            assert bucket.version_count == len(everything) - len(model.visible())
            assert bucket.size_bytes == sum(one.size for one in everything)
            for key, ones in model.keys.items():
                for one in ones:
                    record = view.version(bucket.bucket_id, key, one.version)
                    assert record is not None
                    assert (record.size_bytes, record.is_marker) == (one.size, one.is_marker)
            assert view.counters().blob_count == sum(not one.is_marker for one in everything)
            assert view.scan_digest() == view.digests().record_sum
            problems: list[tuple[str, str]] = []
            audit(view._transaction, lambda *what: problems.append(what), lambda _: None)
            assert problems == []


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("versions")


@settings(max_examples=60, deadline=None)
@given(steps=steps)
def test_versions_are_what_the_documentation_says(
    directory: Path, steps: list[tuple[str, str, int]]
) -> None:
    """Every version, count, reference and page, after any history."""
    number = sum(1 for _ in directory.iterdir())
    trial = Run(directory / str(number))
    for kind, key, at in steps:
        trial.step(kind, key, at)
    trial.check()
    trial.store.close()
