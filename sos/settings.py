"""The effective configuration as values, and the few forms of text that stand for one.

Only ``config.py`` makes a ``Config``; composition roots see the whole, parts receive their own slice.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sos.limits import (
    JOURNAL_KEPT_BYTES_MIN,
    JOURNAL_SEGMENT_BYTES,
    ORPHAN_AGE_S_MIN,
    SCRUB_BYTES_S,
    UNLINK_DELAY_S,
)

NAME_PATTERN: Final = re.compile(r"[a-z0-9-]{1,32}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """HOST:PORT; IPv6 hosts are written in brackets and kept without."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """One entry of the seed list: a first member and its node-to-node address."""

    name: str
    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Who this node is and where its parts listen."""

    data: str
    name: str
    seeds: tuple[Seed, ...]  # a cluster of one: just this node; with ``join`` alone: none
    address: Address  # what other nodes dial: its entry in the seed list
    listen: Address
    blob_listen: Address
    gateways: int
    scrub_bytes_s: int = SCRUB_BYTES_S  # how fast the paced scrub reads
    join: tuple[Address, ...] = ()  # node addresses of a cluster to be admitted to


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Config:
    """The S3 listener. ``domain``: buckets are also served as BUCKET.domain; empty: path style only.

    ``superset``: also accept what the RFCs allow and AWS refuses (docs/s3-compatibility.md).
    """

    listen: Address
    region: str
    domain: str
    superset: bool
    tls_cert: str
    tls_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminConfig:
    listen: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipConfig:
    """``admit``: auto, a node with ``join`` asks to become a member; manual, it waits for `sos member add`."""

    admit: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Never printed, never on a command line, never in a child's environment."""

    root_access_key: str = field(default="", repr=False)
    root_secret_key: str = field(default="", repr=False)
    cluster_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    level: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Dial another address than the listed one: how tests cut a link between two nodes."""

    name: str
    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class TestConfig:
    """Seams for tests; everything but the default needs ``SOS_TEST_MODE=1``."""

    __test__ = False  # pytest collects classes of this name

    enabled: bool = False
    dial: tuple[Override, ...] = ()
    blob_dial: tuple[Override, ...] = ()
    orphan_age_s: float = ORPHAN_AGE_S_MIN
    sweep_period_s: float = 60.0
    unlink_delay_s: float = UNLINK_DELAY_S
    journal_kept_bytes: int = JOURNAL_KEPT_BYTES_MIN
    journal_segment_bytes: int = JOURNAL_SEGMENT_BYTES
    disk_reserve_bytes: int = 512 * 1024 * 1024
    wiped_away_s: float = 10.0  # protocols.md 1.6
    clock_file: str = ""  # seconds by which this node's wall clock is off; see clock.py
    failpoints: str = ""  # armed crash points; see failpoints.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The effective configuration of one node."""

    node: NodeConfig
    s3: S3Config
    admin: AdminConfig
    secrets: Secrets
    log: LogConfig
    test: TestConfig
    membership: MembershipConfig = MembershipConfig()


# --- text ---
def parse_address(text: str) -> Address:
    """Raises: ValueError that says what is wrong."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 host stands in brackets: [::1]:9000")
    if (
        not colon
        or not host
        or not port.isascii()
        or not port.isdigit()
        or not 0 < int(port) < 65536
    ):
        raise ValueError("expected HOST:PORT with a port from 1 to 65535")
    return Address(host=host, port=int(port))


def parse_seeds(text: str) -> tuple[Seed, ...]:
    """Raises: ValueError that says what is wrong."""
    seeds = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, address = item.partition("=")
        if not equals or not NAME_PATTERN.match(name):
            raise ValueError(f"{item!r} is not NAME=HOST:PORT (names: a-z, 0-9 and -, at most 32)")
        try:
            seeds.append(Seed(name=name, address=parse_address(address)))
        except ValueError as error:
            raise ValueError(f"{item!r}: {error}") from error
    return tuple(seeds)


def parse_addresses(text: str) -> tuple[Address, ...]:
    """Raises: ValueError that says what is wrong."""
    addresses = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        try:
            addresses.append(parse_address(item))
        except ValueError as error:
            raise ValueError(f"{item!r}: {error}") from error
    return tuple(addresses)


# --- handing down to child processes ---
def to_plain(config: Config) -> dict[str, Any]:
    """Plain values for a child process, secrets included: never written to a file or a log."""
    return dataclasses.asdict(config)


def from_plain(plain: Mapping[str, Any]) -> Config:
    """The value that ``to_plain`` took apart (lists instead of tuples are fine)."""
    node = plain["node"]
    test = dict(plain["test"])
    for name in ("dial", "blob_dial"):
        test[name] = tuple(
            Override(name=row["name"], address=Address(**row["address"])) for row in test[name]
        )
    return Config(
        node=NodeConfig(
            data=node["data"],
            name=node["name"],
            seeds=tuple(
                Seed(name=row["name"], address=Address(**row["address"])) for row in node["seeds"]
            ),
            address=Address(**node["address"]),
            listen=Address(**node["listen"]),
            blob_listen=Address(**node["blob_listen"]),
            gateways=node["gateways"],
            scrub_bytes_s=node["scrub_bytes_s"],
            join=tuple(Address(**row) for row in node["join"]),
        ),
        s3=S3Config(**{**plain["s3"], "listen": Address(**plain["s3"]["listen"])}),
        admin=AdminConfig(listen=Address(**plain["admin"]["listen"])),
        secrets=Secrets(**plain["secrets"]),
        log=LogConfig(**plain["log"]),
        test=TestConfig(**test),
        membership=MembershipConfig(**plain["membership"]),
    )
