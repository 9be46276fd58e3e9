"""Fetching: resumed over breaks, given up when unwanted, and never more than was said."""

import os
from pathlib import Path

import pytest

from camagent.fetch import fetch_artifact
from camagent.link import CloudLink
from camsdk.errors import DataCorrupted, NotFound
from support.block_artifacts import make_artifact
from support.fake_cloud import FakeCloud


@pytest.fixture
def digest(cloud: FakeCloud) -> str:
    return cloud.add_bundle(make_artifact(cloud.signing_key, 1))


def fetch(link: CloudLink, digest: str, path: Path) -> bool:
    return fetch_artifact(link, digest, path, lambda: True, lambda _pause_s: None)


def test_what_was_begun_is_finished(
    cloud: FakeCloud, link: CloudLink, digest: str, tmp_path: Path
) -> None:
    whole, path = tmp_path / "whole", tmp_path / "part"
    assert fetch(link, digest, whole)
    path.write_bytes(whole.read_bytes()[:5000])
    cloud.faults.cut_fetch_after = 9000
    assert fetch(link, digest, path)
    assert path.read_bytes() == whole.read_bytes()
    assert [offset for _, offset in cloud.fetches] == [0, 5000, 9096]


def test_what_is_complete_survives_a_power_cut(
    link: CloudLink, digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "part", dict[str, int]()
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        synced[str(Path(f"/proc/self/fd/{descriptor}").readlink())] = os.fstat(descriptor).st_size
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert fetch(link, digest, path)
    assert synced[str(path)] == path.stat().st_size


def test_what_is_complete_costs_no_byte(link: CloudLink, digest: str, tmp_path: Path) -> None:
    path = tmp_path / "part"
    assert fetch(link, digest, path)
    before = path.read_bytes()
    assert fetch(link, digest, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("lie", "word"), [("hole", "left out"), ("endless", "more of")])
def test_a_cloud_that_lies_about_amounts_is_not_believed(
    lie: str, word: str, cloud: FakeCloud, link: CloudLink, digest: str, tmp_path: Path
) -> None:
    cloud.faults.fetch_lie = lie
    path = tmp_path / "part"
    with pytest.raises(DataCorrupted, match=word):
        fetch(link, digest, path)
    assert not path.exists()


def test_an_answer_is_no_outage(link: CloudLink, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such artifact"):
        fetch(link, "0" * 64, tmp_path / "part")


def test_what_is_no_longer_wanted_is_given_up(
    cloud: FakeCloud, link: CloudLink, digest: str, tmp_path: Path
) -> None:
    cloud.stop_gateway()
    answers = iter([True, True, False])
    assert not fetch_artifact(
        link, digest, tmp_path / "part", lambda: next(answers), lambda _pause_s: None
    )
