"""The node's configuration: defaults < TOML file < ``SOS_*`` environment < flags, checked as a whole.

The only module that reads the environment. Every problem is reported at once, with its source. Only
the composition roots see the whole ``Config``; parts receive their own slice.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sos.errors import StartRefused
from sos.limits import EPHEMERAL_PORTS, SCRUB_BYTES_S
from sos.settings import (
    NAME_PATTERN,
    Address,
    AdminConfig,
    Config,
    LogConfig,
    MembershipConfig,
    NodeConfig,
    Override,
    S3Config,
    Secrets,
    Seed,
    TestConfig,
    from_plain,
    parse_address,
    parse_addresses,
    parse_seeds,
    to_plain,
)

__all__ = [
    "Address",
    "AdminConfig",
    "Config",
    "ConfigProblems",
    "LogConfig",
    "MembershipConfig",
    "NodeConfig",
    "Override",
    "S3Config",
    "Secrets",
    "Seed",
    "TestConfig",
    "describe",
    "from_plain",
    "load",
    "parse_address",
    "parse_seeds",
    "to_plain",
]

NODE_PORT_DEFAULT: Final = 9300
CLUSTER_KEY_CHARS_MIN: Final = 16
ACCESS_KEY_PATTERN: Final = re.compile(r"[A-Za-z0-9_.+=@-]{3,128}\Z")
SECRET_KEY_CHARS_MIN: Final = 8
_ANY_HOSTS: Final = ("0.0.0.0", "::")  # noqa: S104 - told apart, not bound
_REGION: Final = re.compile(r"[a-z0-9-]{1,32}")  # part of every signature's scope
_DOMAIN: Final = re.compile(r"[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")


class ConfigProblems(StartRefused):
    """Everything that is wrong with a configuration; ``problems`` has one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


# --- the settings, each under its three names -----------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting: ``key`` in the TOML file (section.name), SOS_NAME in the environment, a flag."""

    key: str
    flag: str  # without leading dashes
    parse: Callable[[str], Any]
    default: Any
    is_secret: bool = False
    is_test: bool = False

    @property
    def env(self) -> str:
        return "SOS_" + self.flag.upper().replace("-", "_").replace(".", "_")


def _parse_name(text: str) -> str:
    if not NAME_PATTERN.match(text):
        raise ValueError("a node name has 1 to 32 characters of a-z, 0-9 and -")
    return text


def _parse_seed_list(text: str) -> tuple[Seed, ...]:
    """An empty list is a variable that was not set, never a wish for a cluster of one."""
    if not text.strip():
        raise ValueError("the list is empty; for a cluster of one leave it out")
    return parse_seeds(text)


def _parse_join(text: str) -> tuple[Address, ...]:
    """An empty list is a variable that was not set, never a wish for a cluster of its own."""
    if not text.strip():
        raise ValueError("the list is empty; name node addresses of the cluster to join")
    return parse_addresses(text)


def _parse_admit(text: str) -> str:
    if text not in ("auto", "manual"):
        raise ValueError("expected auto or manual")
    return text


def _parse_region(text: str) -> str:
    if not _REGION.fullmatch(text):
        raise ValueError("a region has 1 to 32 characters of a-z, 0-9 and -")
    return text


def _parse_domain(text: str) -> str:
    if text and not _DOMAIN.fullmatch(text):
        raise ValueError("expected a host name, as clients send it")
    return text.lower()


def _parse_gateways(text: str) -> int:
    count = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= count <= 64:
        raise ValueError("expected a number from 1 to 64")
    return count


def _parse_level(text: str) -> str:
    if text not in ("debug", "info", "warning", "error"):
        raise ValueError("expected debug, info, warning or error")
    return text


def _parse_bool(text: str) -> bool:
    if text.lower() not in ("0", "1", "true", "false"):
        raise ValueError("expected 0 or 1")
    return text.lower() in ("1", "true")


def _parse_size(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ValueError("expected a number of bytes")
    return int(text)


def _parse_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e9:
        raise ValueError("expected a number of seconds")
    return seconds


def _parse_overrides(text: str) -> tuple[Override, ...]:
    return tuple(Override(name=seed.name, address=seed.address) for seed in parse_seeds(text))


def _setting(
    key: str, flag: str, parse: Callable[[str], Any], default: object, **more: bool
) -> Setting:
    return Setting(key=key, flag=flag, parse=parse, default=default, **more)


_TEST_DEFAULTS: Final = TestConfig()
SETTINGS: Final = (
    _setting("node.data", "data", str, ""),
    _setting("node.name", "name", _parse_name, ""),
    _setting("node.seeds", "seeds", _parse_seed_list, ()),
    _setting("node.join", "join", _parse_join, ()),
    _setting("node.listen", "listen", parse_address, None),
    _setting("node.blob_listen", "blob-listen", parse_address, None),
    _setting("node.gateways", "gateways", _parse_gateways, None),
    _setting("node.scrub_bytes_s", "scrub-bytes-s", _parse_size, SCRUB_BYTES_S),
    _setting("s3.listen", "s3", parse_address, Address(host="127.0.0.1", port=9000)),
    _setting("s3.region", "region", _parse_region, "us-east-1"),
    _setting("s3.domain", "s3-domain", _parse_domain, ""),
    _setting("s3.superset", "s3-superset", _parse_bool, False),
    _setting("s3.tls_cert", "s3-tls-cert", str, ""),
    _setting("s3.tls_key", "s3-tls-key", str, ""),
    _setting("admin.listen", "admin", parse_address, Address(host="127.0.0.1", port=9400)),
    _setting("secrets.root_access_key", "root-access-key", str, "", is_secret=True),
    _setting("secrets.root_secret_key", "root-secret-key", str, "", is_secret=True),
    _setting("secrets.cluster_key", "cluster-key", str, "", is_secret=True),
    _setting("secrets.cluster_key_file", "cluster-key-file", str, ""),
    _setting("membership.admit", "membership-admit", _parse_admit, "auto"),
    _setting("log.level", "log-level", _parse_level, "info"),
    _setting("test.enabled", "test-mode", _parse_bool, False),
    _setting("test.dial", "dial", _parse_overrides, (), is_test=True),
    _setting("test.blob_dial", "blob-dial", _parse_overrides, (), is_test=True),
    _setting("test.failpoints", "failpoints", str, "", is_test=True),
    *(
        _setting(f"test.{name}", f"test-{name.replace('_', '-')}", parse, default, is_test=True)
        for name, parse, default in (
            ("orphan_age_s", _parse_seconds, _TEST_DEFAULTS.orphan_age_s),
            ("sweep_period_s", _parse_seconds, _TEST_DEFAULTS.sweep_period_s),
            ("unlink_delay_s", _parse_seconds, _TEST_DEFAULTS.unlink_delay_s),
            ("journal_kept_bytes", _parse_size, _TEST_DEFAULTS.journal_kept_bytes),
            ("journal_segment_bytes", _parse_size, _TEST_DEFAULTS.journal_segment_bytes),
            ("disk_reserve_bytes", _parse_size, _TEST_DEFAULTS.disk_reserve_bytes),
            ("wiped_away_s", _parse_seconds, _TEST_DEFAULTS.wiped_away_s),
            ("clock_file", str, _TEST_DEFAULTS.clock_file),
        )
    ),
)
_BY_KEY: Final = {setting.key: setting for setting in SETTINGS}
_BY_ENV: Final = {setting.env: setting for setting in SETTINGS}
_SECRET_FLAGS: Final = frozenset(setting.flag for setting in SETTINGS if setting.is_secret)
# Of other parts of SOS (tests, failpoints), or what Kubernetes sets for a service called "sos".
_FOREIGN_ENV: Final = ("SOS_SIM_", "SOS_TEST_", "SOS_SERVICE_", "SOS_PORT")


# --- loading --------------------------------------------------------------------------------------
def load(
    flags: Mapping[str, str],
    *,
    file: str | None = None,
    environment: Mapping[str, str] | None = None,
    cores: int | None = None,
) -> Config:
    """The effective configuration; ``flags`` by flag name, only those that were given.

    Raises: ConfigProblems with every problem found.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {setting.key: setting.default for setting in SETTINGS}
    problems: list[str] = []
    if file is None:
        file = environment.get("SOS_CONFIG")
    if file:
        _read_file(file, values, problems)
    for name in sorted(environment):
        if name in _BY_ENV:
            _parse_into(values, problems, _BY_ENV[name], environment[name], f"environment {name}")
        elif name.startswith("SOS_") and name != "SOS_CONFIG" and not name.startswith(_FOREIGN_ENV):
            problems.append(f"environment {name}: no such setting")
    for flag, text in flags.items():
        setting = next(setting for setting in SETTINGS if setting.flag == flag)
        assert flag not in _SECRET_FLAGS
        _parse_into(values, problems, setting, text, f"--{flag}")
    config = _assemble(values, problems, cores=cores or os.cpu_count() or 1)
    if problems or config is None:
        raise ConfigProblems(problems)
    return config


def _read_file(path: str, values: dict[str, Any], problems: list[str]) -> None:
    try:
        with open(path, "rb") as stream:
            document = tomllib.load(stream)
    except (OSError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        problems.append(f"config file {path}: cannot be read: {reason}")
        return
    for section, rows in document.items():
        if not isinstance(rows, dict):
            problems.append(f"config file {path}: {section}: no such setting")
            continue
        for name, value in rows.items():
            key = f"{section}.{name}"
            if key not in _BY_KEY:
                problems.append(f"config file {path}: {key}: no such setting")
            else:
                _parse_into(
                    values, problems, _BY_KEY[key], _text(value), f"config file {path}: {key}"
                )


def _text(value: object) -> str:
    """A TOML value as a flag would spell it: lists join with commas, tables are NAME=VALUE."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, list):
        return ",".join(_text(item) for item in value)
    if isinstance(value, dict):
        return ",".join(f"{name}={_text(item)}" for name, item in value.items())
    return str(value)


def _parse_into(
    values: dict[str, Any], problems: list[str], setting: Setting, text: str, source: str
) -> None:
    try:
        values[setting.key] = setting.parse(text)
    except ValueError as error:
        shown = "" if setting.is_secret else f" {text!r}"
        problems.append(f"{source}{shown}: {error}")


def _assemble(values: dict[str, Any], problems: list[str], *, cores: int) -> Config | None:
    """Check what depends on more than one setting and build the value."""
    node = _assemble_node(values, problems, cores=cores)
    secrets = _assemble_secrets(values, problems, is_alone=not node or _is_alone(node))
    if bool(values["s3.tls_cert"]) != bool(values["s3.tls_key"]):
        problems.append("--s3-tls-cert and --s3-tls-key: give both or none")
    elif values["s3.tls_cert"]:
        _check_certificate(values["s3.tls_cert"], values["s3.tls_key"], problems)
    if not values["test.enabled"]:
        problems.extend(
            f"{setting.key}: for tests only, needs SOS_TEST_MODE=1"
            for setting in SETTINGS
            if setting.is_test and values[setting.key] != setting.default
        )
    if node is not None:
        _check_ports(node, values["s3.listen"], values["admin.listen"], problems)
    if problems or node is None or secrets is None:
        return None
    test_fields = (f.name for f in dataclasses.fields(TestConfig))
    return Config(
        node=node,
        s3=S3Config(
            listen=values["s3.listen"],
            region=values["s3.region"],
            domain=values["s3.domain"],
            superset=values["s3.superset"],
            tls_cert=values["s3.tls_cert"],
            tls_key=values["s3.tls_key"],
        ),
        admin=AdminConfig(listen=values["admin.listen"]),
        secrets=secrets,
        log=LogConfig(level=values["log.level"]),
        membership=MembershipConfig(admit=values["membership.admit"]),
        test=TestConfig(**{name: values[f"test.{name}"] for name in test_fields}),
    )


def _check_certificate(certificate: str, key: str, problems: list[str]) -> None:
    """A gateway would find it as well, but after the node has begun to write."""
    unreadable = [path for path in (certificate, key) if not os.access(path, os.R_OK)]
    if unreadable:
        problems.extend(
            f"{'--s3-tls-cert' if path is certificate else '--s3-tls-key'} {path}: "
            f"{'cannot be read by this user' if os.path.exists(path) else 'no such file'}"
            for path in unreadable
        )
        return
    from sos.tls import tls_context  # 1 MiB that only HTTPS has to pay for

    try:
        tls_context(certificate, key)
    except StartRefused as error:
        problems.append(str(error))


def _assemble_node(values: dict[str, Any], problems: list[str], *, cores: int) -> NodeConfig | None:
    before = len(problems)
    name, seeds, join = values["node.name"], values["node.seeds"], values["node.join"]
    if not values["node.data"]:
        problems.append("--data is missing: say where this node keeps its files")
    if not name:
        problems.append("--name is missing: say which node this is, for example --name n1")
    _check_seeds(name, seeds, problems)
    listen: Address | None = values["node.listen"]
    if join and not seeds:
        _check_join(listen, join, problems)
    if len(problems) > before:
        return None
    address = listen or Address(host="127.0.0.1", port=NODE_PORT_DEFAULT)
    if not seeds and not join:
        seeds = (Seed(name=name, address=address),)
    address = next((seed.address for seed in seeds if seed.name == name), address)
    listen = listen or address
    blob_listen = values["node.blob_listen"] or Address(host=listen.host, port=listen.port + 1)
    return NodeConfig(
        data=os.path.abspath(values["node.data"]),
        name=name,
        seeds=seeds,
        address=address,
        listen=listen,
        blob_listen=blob_listen,
        gateways=values["node.gateways"] or min(cores, 4),
        scrub_bytes_s=values["node.scrub_bytes_s"],
        join=join,
    )


def _is_alone(node: NodeConfig) -> bool:
    """A cluster of one: it needs no key as long as nobody joins it."""
    return not node.join and len(node.seeds) <= 1


def _check_join(listen: Address | None, join: tuple[Address, ...], problems: list[str]) -> None:
    """A node that no seed list names says itself where the others reach it."""
    if listen is None:
        problems.append(
            "--join needs --listen HOST:PORT: the address at which the other nodes reach this one"
        )
    elif listen.host in _ANY_HOSTS:
        problems.append(
            f"--listen {listen}: with --join the other nodes dial this address: give the host that they reach"
        )
    elif listen in join:
        problems.append(f"--join {listen} is this node's own --listen: name nodes of the cluster")


def _check_seeds(name: str, seeds: tuple[Seed, ...], problems: list[str]) -> None:
    names = [seed.name for seed in seeds]
    problems.extend(
        f"--seeds names {twice!r} twice: every node has a name of its own"
        for twice in sorted({item for item in names if names.count(item) > 1})
    )
    addresses = [str(seed.address) for seed in seeds]
    problems.extend(
        f"--seeds has the address {twice} twice: every node has an address of its own"
        for twice in sorted({item for item in addresses if addresses.count(item) > 1})
    )
    if seeds and name and name not in names:
        problems.append(
            f"--seeds does not name this node: {name!r} is not among {', '.join(names)}"
        )


def _check_ports(node: NodeConfig, s3: Address, admin: Address, problems: list[str]) -> None:
    problems.extend(
        f"node address {seed.address} of {seed.name}: node ports lie outside "
        "32768-60999, where outgoing connections take theirs"
        for seed in node.seeds
        if seed.address.port in EPHEMERAL_PORTS
    )
    own = {"--listen": node.listen, "--blob-listen": node.blob_listen}
    told = [seed.address for seed in node.seeds]
    for flag, address in own.items():
        if not 0 < address.port < 65536:
            problems.append(f"{flag} {address}: no such port")
        if address.port in EPHEMERAL_PORTS and address not in told:
            problems.append(
                f"{flag} {address}: node ports lie outside 32768-60999, "
                "where outgoing connections take theirs"
            )
    # Only the node itself knows its blob port, and so whether it takes the place of a neighbour on its machine.
    problems.extend(
        f"--blob-listen {node.blob_listen} is the node address of {seed.name} on the same machine: leave a port "
        "between node addresses (the blob port is the next one), or give --blob-listen another"
        for seed in node.seeds
        if seed.name != node.name
        and seed.address == Address(host=node.address.host, port=node.blob_listen.port)
    )
    used: dict[Address, str] = {}
    for flag, address in {**own, "--s3": s3, "--admin": admin}.items():
        if address in used:
            problems.append(f"{used[address]} and {flag} are both {address}: choose another port")
        used[address] = flag


def _assemble_secrets(
    values: dict[str, Any], problems: list[str], *, is_alone: bool
) -> Secrets | None:
    before = len(problems)
    access, secret = values["secrets.root_access_key"], values["secrets.root_secret_key"]
    if bool(access) != bool(secret):
        problems.append("SOS_ROOT_ACCESS_KEY and SOS_ROOT_SECRET_KEY: give both or none")
    if access and not ACCESS_KEY_PATTERN.match(access):
        problems.append("SOS_ROOT_ACCESS_KEY: 3 to 128 characters of A-Z a-z 0-9 _ . + = @ -")
    if secret and (
        len(secret) < SECRET_KEY_CHARS_MIN or not secret.isprintable() or not secret.isascii()
    ):
        problems.append(
            f"SOS_ROOT_SECRET_KEY: at least {SECRET_KEY_CHARS_MIN} printable characters"
        )
    key, path = values["secrets.cluster_key"], values["secrets.cluster_key_file"]
    if key and path:
        problems.append("SOS_CLUSTER_KEY and --cluster-key-file: give one of them")
    elif path:
        key = _read_cluster_key(path, problems)
    if key and len(key) < CLUSTER_KEY_CHARS_MIN:
        problems.append(f"the cluster key has at least {CLUSTER_KEY_CHARS_MIN} characters")
    if not key and not path and not is_alone:
        problems.append(
            "the cluster key is missing: set SOS_CLUSTER_KEY or --cluster-key-file "
            "to the same secret on every node (for example: openssl rand -hex 32)"
        )
    if len(problems) > before:
        return None
    return Secrets(root_access_key=access, root_secret_key=secret, cluster_key=key)


def _read_cluster_key(path: str, problems: list[str]) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            key = stream.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        problems.append(f"--cluster-key-file {path}: cannot be read: {reason}")
        return ""
    if not key:
        problems.append(f"--cluster-key-file {path}: the file is empty")
    return key


# --- showing ---------------------------------------------------------------------
def describe(config: Config) -> str:
    """The effective configuration as TOML, secrets only as set or not."""
    shown: dict[str, list[str]] = {}
    for section in ("node", "membership", "s3", "admin", "log"):
        part = getattr(config, section)
        shown[section] = [
            f"{f.name} = {_toml(getattr(part, f.name))}" for f in dataclasses.fields(part)
        ]
    shown["secrets"] = [
        f"# {f.name}: {'set' if getattr(config.secrets, f.name) else 'not set'}"
        for f in dataclasses.fields(config.secrets)
    ]
    if config.test.enabled:
        shown["test"] = [
            f"{f.name} = {_toml(getattr(config.test, f.name))}"
            for f in dataclasses.fields(config.test)
        ]
    return "\n\n".join(f"[{section}]\n" + "\n".join(rows) for section, rows in shown.items())


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple):
        return '"' + ",".join(map(_item, value)) + '"'
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _item(value: object) -> str:
    """One of a list of addresses, or of names with addresses."""
    return f"{value.name}={value.address}" if isinstance(value, Seed | Override) else str(value)
