"""Pulling, from a mirror and with clients, ends with the pinned file or an error that says how."""

import stat
import sys
import threading
from pathlib import Path

import pytest

from camsdk import assets
from camsdk.assets import AssetStore
from camsdk.errors import AssetError, NotFound
from support.packages import make_assets, make_deb, make_tgz

MEMBERS = {"package/graph.json": b"graph" * 99, "package/weights.bin": bytes(range(200)) * 50}
ARCHIVE = "fake-1.0.tgz"
DATA = make_tgz(MEMBERS)
KNOWN = make_assets(ARCHIVE, DATA, MEMBERS)


def ignore(done: int, total: int) -> None:
    """No progress is looked at."""


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path: Path, mirror: Path) -> AssetStore:
    return AssetStore(tmp_path / "assets", mirror, KNOWN)


def test_an_archive_in_the_mirror_gives_all_its_assets(
    store: AssetStore, mirror: Path, tmp_path: Path
) -> None:
    (mirror / ARCHIVE).write_bytes(DATA)
    path = store.pull("graph.json", ignore)
    assert path.read_bytes() == MEMBERS["package/graph.json"]
    assert store.verify("weights.bin").read_bytes() == MEMBERS["package/weights.bin"]
    assert not (tmp_path / "assets" / ".work" / "fake").exists()


def test_the_file_itself_in_the_mirror_is_enough(store: AssetStore, mirror: Path) -> None:
    (mirror / "graph.json").write_bytes(MEMBERS["package/graph.json"])
    seen: list[tuple[int, int]] = []
    assert store.pull("graph.json", lambda *step: seen.append(step)).is_file()
    assert seen[-1] == (495, 495)


def test_what_is_there_is_kept_and_a_damaged_file_is_replaced(
    store: AssetStore, mirror: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (mirror / ARCHIVE).write_bytes(DATA)
    path = store.pull("graph.json", ignore)
    before = path.stat().st_ino
    assert store.pull("graph.json", ignore).stat().st_ino == before
    path.write_bytes(b"graph" * 98 + b"Graph")
    with pytest.raises(AssetError, match="sha256"):
        store.verify("graph.json")
    assert store.pull("graph.json", ignore).read_bytes() == MEMBERS["package/graph.json"]
    assert "fetching it anew" in caplog.text


@pytest.mark.parametrize("name", ["graph.json", ARCHIVE])
def test_a_wrong_file_in_the_mirror_is_refused(
    store: AssetStore, mirror: Path, tmp_path: Path, name: str
) -> None:
    (mirror / name).write_bytes(b"something else")
    with pytest.raises(AssetError, match="its pin says"):
        store.pull("graph.json", ignore)
    assert not (tmp_path / "assets" / "graph.json").exists()


@pytest.mark.parametrize(("client", "program"), [("npm", "npm"), ("apt", "apt-get")])
def test_a_missing_client_is_named_with_two_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str, program: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    known = make_assets(ARCHIVE, DATA, MEMBERS, client)
    with pytest.raises(AssetError, match=f"{program} is needed") as caught:
        AssetStore(tmp_path / "assets", None, known).pull("graph.json", ignore)
    assert "--mirror" in caught.value.hint
    assert ARCHIVE in caught.value.hint


def test_names_and_places_that_cannot_be(store: AssetStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no asset 'graph'") as caught:
        store.pull("graph", ignore)
    assert "graph.json" in caught.value.hint
    with pytest.raises(AssetError, match="has not been pulled"):
        store.verify("graph.json")
    (tmp_path / "file").touch()
    with pytest.raises(AssetError, match="cannot be stored"):
        AssetStore(tmp_path / "file", None, KNOWN).pull("graph.json", ignore)


def test_many_pull_at_once(store: AssetStore, mirror: Path) -> None:
    (mirror / ARCHIVE).write_bytes(DATA)
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(store.pull("graph.json", ignore).read_bytes()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [MEMBERS["package/graph.json"]] * 8


def test_the_manifest_is_complete() -> None:
    known = assets.list_assets()
    assert {"vtest.avi", "nanodet.json", "nanodet.bin"} <= {asset.name for asset in known}
    for asset in known:
        assert len(asset.sha256) == len(asset.package.sha256) == 64
        assert asset.size_bytes > 0
        assert asset.licence
        assert "/" not in asset.name
        if asset.licence.startswith("unclear"):
            assert not asset.redistributable


def fake_client(folder: Path, name: str, script: str) -> None:
    """An executable of this name that runs a Python script."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.slow
class TestClients:
    """With executables that stand in for npm and apt-get."""

    def test_npm_is_asked_for_the_pinned_version(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        served = tmp_path / "served"
        served.write_bytes(DATA)
        fake_client(
            tmp_path / "bin",
            "npm",
            "import shutil, sys, time\n"
            "assert sys.argv[1:3] == ['pack', 'fake@1.0'] and '--ignore-scripts' in sys.argv\n"
            f"shutil.copy({str(served)!r}, {ARCHIVE!r})\n"
            "time.sleep(0.5)\n",
        )
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        seen: list[tuple[int, int]] = []
        store = AssetStore(tmp_path / "assets", None, KNOWN)
        assert store.pull("graph.json", lambda *step: seen.append(step)).is_file()
        assert (len(DATA), len(DATA)) in seen

    def test_what_the_registry_serves_is_checked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_client(tmp_path / "bin", "npm", f"open({ARCHIVE!r}, 'wb').write(b'evil')\n")
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        with pytest.raises(AssetError, match="its pin says"):
            AssetStore(tmp_path / "assets", None, KNOWN).pull("graph.json", ignore)
        assert not (tmp_path / "assets" / ".work" / "fake" / ARCHIVE).exists()

    def test_a_failing_client_is_quoted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_client(tmp_path / "bin", "npm", "print('E404 not here'); raise SystemExit(7)\n")
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        with pytest.raises(AssetError, match=r"exit code 7\): E404 not here"):
            AssetStore(tmp_path / "assets", None, KNOWN).pull("graph.json", ignore)

    def test_apt_gets_package_lists_of_its_own_when_the_machine_has_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        archive, data = "fake_1.0_all.deb", make_deb(MEMBERS)
        served = tmp_path / "served"
        served.write_bytes(data)
        fake_client(
            tmp_path / "bin",
            "apt-get",
            "import pathlib, shutil, sys\n"
            "own = next((a[18:] for a in sys.argv if a.startswith('Dir::State::Lists=')), None)\n"
            "if 'update' in sys.argv:\n"
            "    (pathlib.Path(own) / 'Packages').touch()\n"
            "elif own and (pathlib.Path(own) / 'Packages').exists():\n"
            f"    shutil.copy({str(served)!r}, {archive!r})\n"
            "else:\n"
            "    raise SystemExit(100)\n",
        )
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        known = make_assets(archive, data, MEMBERS, "apt")
        path = AssetStore(tmp_path / "assets", None, known).pull("graph.json", ignore)
        assert path.read_bytes() == MEMBERS["package/graph.json"]

    def test_a_real_registry_serves_a_pinned_asset(self, tmp_path: Path) -> None:
        path = assets.pull("carphone.mp4", folder=tmp_path / "assets")
        assert assets.verify("carphone.mp4", folder=tmp_path / "assets") == path
