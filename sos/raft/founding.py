"""What the first members bring, the record made of it, and what keeps two of them from agreeing. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from sos.catalog.model import AccessKeyId, FormationRecord, Member, NodeId
from sos.clock import IdSource
from sos.errors import StartRefused
from sos.raft.formation_messages import Report
from sos.raft.formation_rules import Phase
from sos.settings import Seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Founder:
    """What a first member brings, or one that joins. Root keys: those given by its configuration, or None.

    ``join``: addresses of a cluster to belong to. An empty node with them alone founds nothing.
    """

    name: str
    seeds: tuple[Seed, ...]
    blob_address: str
    s3_address: str
    region: str
    root_access_key: str | None
    root_secret_key: str | None
    join: tuple[str, ...] = ()

    @property
    def only_joins(self) -> bool:
        return bool(self.join) and not self.seeds

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(seed.name for seed in self.seeds)

    @property
    def seed_texts(self) -> tuple[str, ...]:
        return tuple(f"{seed.name}={seed.address}" for seed in self.seeds)

    @property
    def root_keys(self) -> bytes | None:
        """A digest to compare by."""
        if not self.root_access_key or not self.root_secret_key:
            return None
        return _root_keys_digest(self.root_access_key, self.root_secret_key)


def _root_keys_digest(access_key: str, secret_key: str) -> bytes:
    return hashlib.sha256(f"{access_key}\0{secret_key}".encode()).digest()


def member_nodes(record: FormationRecord) -> tuple[str, ...]:
    """The incarnations that a record names, in the order of the seed list."""
    return tuple(member.node for member in record.members)


def check_seeds(founder: Founder) -> None:
    """The configuration reports this better; a list that is wrong must never form, whoever calls."""
    if founder.only_joins:
        return
    addresses = {str(seed.address) for seed in founder.seeds}
    if founder.name not in founder.names:
        raise StartRefused(f"the seed list does not name this node, {founder.name!r}")
    if len(set(founder.names)) < len(founder.seeds) or len(addresses) < len(founder.seeds):
        raise StartRefused("the seed list has a name or an address twice")


def make_record(
    founder: Founder, reports: Mapping[str, Report], *, ids: IdSource, created_ms: int
) -> FormationRecord:
    """The proposal. ``reports``: of every name in the seed list, this node's own included."""
    random = ids.random_bytes
    members = []
    for seed in founder.seeds:
        report = reports[seed.name]
        members.append(
            Member(
                node=NodeId(report.stand.node),
                name=seed.name,
                address=str(seed.address),
                blob_address=report.blob_address,
                s3_address=report.s3_address,
            )
        )
    access_key, secret_key = founder.root_access_key, founder.root_secret_key
    if not access_key or not secret_key:
        access_key = "SOS" + random(8).hex().upper()
        secret_key = base64.urlsafe_b64encode(random(30)).decode()
    return FormationRecord(
        cluster_id=random(16),
        members=tuple(members),
        root_access_key=AccessKeyId(access_key),
        root_secret_key=secret_key,
        token_secret=random(32),
        owner_id=random(32).hex(),
        region=founder.region,
        created_ms=created_ms,
    )


def agrees(founder: Founder, record: FormationRecord) -> bool:
    """Whether the proposed record says what this node was configured with."""
    listed = tuple(f"{member.name}={member.address}" for member in record.members)
    keys = _root_keys_digest(record.root_access_key, record.root_secret_key)
    return listed == founder.seed_texts and founder.root_keys in (None, keys)


def misfit(founder: Founder, record: FormationRecord) -> str | None:
    """Why this node, as it is configured, cannot join the cluster that ``record`` formed."""
    keys = _root_keys_digest(record.root_access_key, record.root_secret_key)
    if founder.root_keys not in (None, keys):
        return (
            "the root keys of this node are not those of the cluster that it joins: unset "
            "SOS_ROOT_ACCESS_KEY and SOS_ROOT_SECRET_KEY (the cluster keeps its keys)"
        )
    if founder.region != record.region:
        return (
            f"--region {founder.region}: the cluster that this node joins has region {record.region}: "
            f"start it with --region {record.region}"
        )
    return None


def objection(founder: Founder, name: str, report: Report | None, trouble: str) -> str | None:
    """Why no cluster can form with ``name`` now. ``report``: None while it is not connected, for ``trouble``."""
    seed = next(seed for seed in founder.seeds if seed.name == name)
    where = f"waiting for {name} at {seed.address}"
    if report is None:
        return f"{where}: {trouble}"
    stand = report.stand
    if stand.phase is Phase.FORMED and stand.promise is not None:
        cluster = stand.promise.cluster_id.hex()
        return f"{name} at {seed.address} belongs to cluster {cluster}: waiting for its word to join it"
    if report.seeds != founder.seed_texts:
        theirs = ",".join(report.seeds)
        return f"{where}: it has another seed list, {theirs}"
    if founder.names[0] in (name, founder.name) and founder.root_keys != report.root_keys:
        # Who proposes must have the keys that any node was given.
        proposer_keys = founder.root_keys if founder.name == founder.names[0] else report.root_keys
        if None not in (founder.root_keys, report.root_keys) or proposer_keys is None:
            return f"{where}: it has other root keys: give all nodes the same SOS_ROOT_* or none"
    return None
