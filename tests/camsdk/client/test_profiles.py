"""Profiles: named, the default of the file, the embedded cloud; and what a file may get wrong."""

import json
from pathlib import Path

import pytest

from camsdk.client.profiles import DEFAULT_SERVER, EMBEDDED, embedded_profile, find_profile
from camsdk.errors import CamError, InvalidInput, NotFound, Unauthenticated
from support.tls import server_tls

CONFIG = """
default = "park"
[profiles.park]
server = "grpcs://cloud:1"
token_file = "park.token"
ca = "/etc/park-ca.pem"
[profiles.public]
server = "grpcs://public:2"
token_file = "~/public.token"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


def test_the_default_and_a_named_profile(config: Path) -> None:
    park = find_profile("", config)
    assert (park.name, park.server) == ("park", "grpcs://cloud:1")
    assert park.token_file == config.parent / "park.token"
    assert park.ca_file == Path("/etc/park-ca.pem")
    public = find_profile("public", config)
    assert public.ca_file is None
    assert public.token_file == Path.home() / "public.token"
    assert find_profile(EMBEDDED, config).name == EMBEDDED
    with pytest.raises(NotFound) as caught:
        find_profile("other", config)
    assert caught.value.hint == "there are: embedded, park, public"


def test_without_a_file_the_embedded_cloud_is_meant(tmp_path: Path) -> None:
    profile = find_profile("", tmp_path / "missing.toml")
    assert (profile.name, profile.server) == (EMBEDDED, DEFAULT_SERVER)


def test_the_embedded_cloud_leaves_its_address(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    ready.write_text(json.dumps({"api": "127.0.0.1:4711"}))
    assert embedded_profile(tmp_path).server == "grpcs://127.0.0.1:4711"
    for damaged in ("{", "[]", '{"api": 7}', '{"api": ""}'):
        ready.write_text(damaged)
        assert embedded_profile(tmp_path).server == DEFAULT_SERVER


def test_credentials_come_from_the_files(config: Path, tmp_path: Path) -> None:
    profile = find_profile("park", config)
    with pytest.raises(Unauthenticated, match=r"park\.token") as caught:
        profile.credentials()
    assert "camctl serve" in caught.value.hint
    profile.token_file.write_text(" secret\n")
    with pytest.raises(Unauthenticated, match="park-ca"):
        profile.credentials()
    embedded = embedded_profile(tmp_path)
    assert embedded.is_absent()
    embedded.token_file.write_text("t")
    (tmp_path / "pki").mkdir()
    (tmp_path / "pki" / "ca.pem").write_bytes(server_tls().ca_pem)
    assert not embedded.is_absent()
    assert embedded.credentials().ca_pem == server_tls().ca_pem


@pytest.mark.parametrize(
    "text",
    [
        "default = 3",
        "profiles = 3",
        "nonsense",
        "\udcff",
        '[profiles.park]\nserver = "x"',
        '[profiles.park]\nserver = "x"\ntoken_file = "y"\ntoken = "z"',
        '[profiles.park]\nserver = 3\ntoken_file = "y"',
        "[profiles]\npark = 3",
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CamError, match=r"config\.toml") as caught:
        find_profile("park", path)
    assert isinstance(caught.value, InvalidInput | NotFound)
