"""Configuration: sources, checks, and that no secret is shown."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sos.config import Config, ConfigProblems, describe, from_plain, load, to_plain
from tests.compat.tls import make_certificate

KEY = "0123456789abcdef0123"
SEEDS = "n1=127.0.0.1:10000,n2=127.0.0.1:10010,n3=127.0.0.1:10020"


def _load(environment: dict[str, str] | None = None, **flags: str) -> Config:
    given = {"data": "/tmp/x", "name": "n1", **{k.replace("_", "-"): v for k, v in flags.items()}}
    return load({k: v for k, v in given.items() if v}, environment=environment or {}, cores=2)


def _problems(environment: dict[str, str] | None = None, **flags: str) -> tuple[str, ...]:
    with pytest.raises(ConfigProblems) as caught:
        _load(environment, **flags)
    return caught.value.problems


def test_weaker_sources_give_way(tmp_path: Path) -> None:
    """Design 4: flags > environment > TOML file > defaults, each setting under all three names."""
    file = tmp_path / "sos.toml"
    file.write_text(
        '[s3]\nlisten = "127.0.0.1:9100"\nregion = "file"\n[admin]\nlisten = "127.0.0.1:9500"\n'
        '[log]\nlevel = "debug"\n[node]\ngateways = 3\n'
    )
    environment = {"SOS_CONFIG": str(file), "SOS_REGION": "env", "SOS_ADMIN": "127.0.0.1:9501"}

    config = _load(environment, admin="127.0.0.1:9502")

    assert str(config.s3.listen) == "127.0.0.1:9100"
    assert config.s3.region == "env"
    assert str(config.admin.listen) == "127.0.0.1:9502"
    assert config.log.level == "debug"
    assert config.node.gateways == 3


def test_seed_list_as_toml_table_or_list(tmp_path: Path) -> None:
    """A file may spell the seed list as a table."""
    file = tmp_path / "sos.toml"
    file.write_text('[node.seeds]\nn1 = "127.0.0.1:10000"\nn2 = "[::1]:10010"\n')

    config = load(
        {"data": "/tmp/x", "name": "n1"},
        file=str(file),
        environment={"SOS_CLUSTER_KEY": KEY},
    )

    assert [(s.name, s.address.host, s.address.port) for s in config.node.seeds] == [
        ("n1", "127.0.0.1", 10000),
        ("n2", "::1", 10010),
    ]
    assert str(config.node.blob_listen) == "127.0.0.1:10001"


def test_a_node_without_seeds_is_a_cluster_of_one() -> None:
    """Design 3: one node alone is a cluster of one, without a cluster key."""
    config = _load()

    assert [seed.name for seed in config.node.seeds] == ["n1"]
    assert config.node.listen == config.node.address == config.node.seeds[0].address


def test_a_node_that_joins_has_no_seeds() -> None:
    """Design 4: --join names addresses of a cluster; what the others dial is the own --listen."""
    config = _load({"SOS_CLUSTER_KEY": KEY}, join="h1:7000,h2:7000", listen="h4:7000")

    assert config.node.seeds == ()
    assert [str(address) for address in config.node.join] == ["h1:7000", "h2:7000"]
    assert str(config.node.address) == "h4:7000"
    assert config.membership.admit == "auto"
    assert from_plain(json.loads(json.dumps(to_plain(config)))) == config
    assert 'join = "h1:7000,h2:7000"' in describe(config)


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    """House style 9: all errors together, each with its source; unknown keys are errors."""
    file = tmp_path / "sos.toml"
    file.write_text("[node]\nnmae = 'n1'\n[bogus]\nx = 1\n[log]\nlevel = 'loud'\n")

    with pytest.raises(ConfigProblems) as caught:
        load({"gateways": "0"}, file=str(file), environment={"SOS_GATEWAY": "1"}, cores=2)

    text = "\n".join(caught.value.problems)
    for expected in (
        "node.nmae: no such setting",
        "bogus.x: no such setting",
        "log.level 'loud': expected debug",
        "environment SOS_GATEWAY: no such setting",
        "--gateways '0': expected a number",
        "--data is missing",
        "--name is missing",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"name": "N1"}, "a node name has"),
        ({"seeds": "n2=127.0.0.1:10000"}, "does not name this node"),
        ({"seeds": "n1=a:10000,n1=b:10000"}, "names 'n1' twice"),
        ({"seeds": "n1=a:10000,n2=a:10000"}, "has the address a:10000 twice"),
        ({"seeds": "n1=a:40000"}, "node ports lie outside 32768-60999"),
        ({"listen": "a:60999"}, "node ports lie outside 32768-60999"),
        ({"seeds": "n1"}, "is not NAME=HOST:PORT"),
        ({"region": "eu/west 1"}, "a region has"),
        ({"s3-domain": "a b"}, "expected a host name"),
        ({"seeds": "n1=a"}, "expected HOST:PORT"),
        ({"seeds": SEEDS}, "cluster key is missing"),
        ({"join": "a:1", "listen": "b:1"}, "cluster key is missing"),
        ({"join": "a:1"}, "--join needs --listen"),
        ({"join": "a:1", "listen": "0.0.0.0:1"}, "give the host that they reach"),
        ({"join": "a:1", "listen": "a:1"}, "this node's own --listen"),
        ({"join": "a:1,b", "listen": "c:1"}, "'b': expected HOST:PORT"),
        ({"join": "a:1", "listen": "c:40000"}, "node ports lie outside 32768-60999"),
        ({"membership-admit": "ask"}, "expected auto or manual"),
        ({"s3": "127.0.0.1"}, "expected HOST:PORT"),
        ({"s3": "127.0.0.1:70000"}, "port from 1 to 65535"),
        ({"s3": "127.0.0.1:9400"}, "are both 127.0.0.1:9400"),
        (
            {"seeds": "n1=127.0.0.1:9300,n2=127.0.0.1:9301,n3=127.0.0.1:9310"},
            "--blob-listen 127.0.0.1:9301 is the node address of n2",
        ),
        (
            {"seeds": "n1=h:9300,n2=h:9310,n3=i:9310", "blob_listen": "0.0.0.0:9310"},
            "--blob-listen 0.0.0.0:9310 is the node address of n2",
        ),
        ({"s3": "::1:9000"}, "stands in brackets"),
        ({"s3_tls_cert": "/etc/hostname"}, "give both or none"),
        ({"cluster_key_file": "/nonexistent/key"}, "cannot be read"),
        ({"dial": "n2=127.0.0.1:1"}, "for tests only"),
        ({"test_clock_file": "/tmp/offset"}, "for tests only"),
    ],
)
def test_bad_settings_say_what_is_wrong(flags: dict[str, str], expected: str) -> None:
    """Issue 4, bad input: one line that says what to do."""
    assert any(expected in problem for problem in _problems(None, **flags))


@pytest.mark.parametrize(
    ("flag", "expected"), [("seeds", "the list is empty"), ("region", "a region has")]
)
def test_an_empty_value_is_no_default(flag: str, expected: str) -> None:
    """`--seeds "$UNSET"` must not form a cluster of one, nor a region be nothing."""
    with pytest.raises(ConfigProblems, match=expected):
        load({"data": "/tmp/x", "name": "n1", flag: ""}, environment={}, cores=2)


def test_root_keys_come_in_pairs_and_are_never_shown() -> None:
    """Design 11: no secret in what is printed, nor in a problem's text."""
    assert any("both or none" in p for p in _problems({"SOS_ROOT_ACCESS_KEY": "admin"}))
    short = _problems({"SOS_ROOT_ACCESS_KEY": "admin", "SOS_ROOT_SECRET_KEY": "hunter2"})
    assert not any("hunter2" in problem for problem in short)

    config = _load(
        {
            "SOS_ROOT_ACCESS_KEY": "admin",
            "SOS_ROOT_SECRET_KEY": "hunter2hunter2",
            "SOS_CLUSTER_KEY": KEY,
        }
    )

    assert "hunter2" not in describe(config)
    assert "hunter2" not in repr(config)
    assert KEY not in describe(config)
    assert KEY not in repr(config)


def test_cluster_key_from_a_file(tmp_path: Path) -> None:
    """Design 4: SOS_CLUSTER_KEY or --cluster-key-file, not both."""
    file = tmp_path / "key"
    file.write_text(KEY + "\n")

    assert _load(seeds=SEEDS, cluster_key_file=str(file)).secrets.cluster_key == KEY
    both = _problems({"SOS_CLUSTER_KEY": KEY}, cluster_key_file=str(file))
    assert any("give one of them" in problem for problem in both)


def test_children_get_the_same_configuration() -> None:
    """The value survives its way through JSON to a child process."""
    config = _load(
        {"SOS_CLUSTER_KEY": KEY, "SOS_TEST_MODE": "1", "SOS_DIAL": "n2=127.0.0.1:11000"},
        seeds=SEEDS,
    )

    assert from_plain(json.loads(json.dumps(to_plain(config)))) == config


# --- the S3 certificate ---
def _encrypted_key(directory: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    path = directory / "encrypted.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    return path


def test_a_usable_certificate_is_taken(tmp_path: Path) -> None:
    """Issue 4: HTTPS by certificate files."""
    certificate, key = make_certificate(tmp_path)
    config = _load(s3_tls_cert=str(certificate), s3_tls_key=str(key))
    assert config.s3.tls_cert == str(certificate)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one missing", "--s3-tls-cert and --s3-tls-key: give both or none"),
        ("no such file", "--s3-tls-key /nonexistent.pem: no such file"),
        ("unreadable", "cannot be read by this user"),
        ("not a certificate", "cannot use the certificate"),
        ("of another key", "key values mismatch"),
        ("encrypted key", "store it without a password"),
        ("a directory", "cannot use the certificate"),
    ],
)
def test_an_unusable_certificate_is_one_problem(
    tmp_path: Path, name: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad input: found before anything is started, one line that names the flag and what is wrong."""
    certificate, key = map(str, make_certificate(tmp_path))
    (tmp_path / "other").mkdir()
    match name:
        case "one missing":
            key = ""
        case "no such file":
            key = "/nonexistent.pem"
        case "unreadable":  # root may read everything: the question itself is answered
            real = os.access
            monkeypatch.setattr(os, "access", lambda path, mode: path != key and real(path, mode))
        case "not a certificate":
            Path(certificate).write_text("hello\n")
        case "of another key":
            key = str(make_certificate(tmp_path / "other")[1])
        case "encrypted key":
            key = str(_encrypted_key(tmp_path))
        case "a directory":
            certificate = str(tmp_path)

    (problem,) = _problems(None, s3_tls_cert=certificate, s3_tls_key=key)

    assert expected in problem
    assert "\n" not in problem
