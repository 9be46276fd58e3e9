"""Members come out of every kind of archive exactly as pinned, or not at all."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camsdk.assets.archives import extract
from camsdk.errors import AssetError
from support.packages import Compression, make_assets, make_deb, make_tgz, make_wheel

MEMBERS = {
    "package/models/graph.json": b'{"a": 1}' * 40,
    "package/models/weights.bin": bytes(range(256)) * 700,
}
OTHERS = {"package/big.bin": b"\0" * 300_000, **MEMBERS, "package/after.txt": b"after"}


def ignore(done: int, total: int) -> None:
    """No progress is looked at."""


def archive_of(kind: str) -> tuple[str, bytes]:
    if kind == "tgz":
        return "fake-1.0.tgz", make_tgz(OTHERS)
    if kind == "whl":
        return "fake-1.0-py3-none-any.whl", make_wheel(OTHERS)
    compression: Compression = kind.removeprefix("deb-")  # type: ignore[assignment] # see KINDS
    return "fake_1.0_all.deb", make_deb(OTHERS, compression)


KINDS = ["tgz", "whl", "deb-xz", "deb-zst", "deb-gz", "deb-none"]


@pytest.mark.parametrize("kind", KINDS)
def test_members_come_out_whole(kind: str, tmp_path: Path) -> None:
    name, data = archive_of(kind)
    (tmp_path / name).write_bytes(data)
    assets = make_assets(name, data, MEMBERS)
    seen: list[tuple[int, int]] = []
    paths = extract(
        tmp_path / name, list(assets.values()), tmp_path, lambda *step: seen.append(step)
    )
    assert {path.name: path.read_bytes() for path in paths.values()} == {
        "graph.json.part": MEMBERS["package/models/graph.json"],
        "weights.bin.part": MEMBERS["package/models/weights.bin"],
    }
    assert all(0 <= done <= total == len(data) for done, total in seen)


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_archive_is_an_error_of_ours(kind: str, tmp_path: Path) -> None:
    name, data = archive_of(kind)
    assets = make_assets(name, data, MEMBERS)
    for length in (0, 7, 60, len(data) // 3, len(data) * 2 // 3):
        (tmp_path / name).write_bytes(data[:length])
        with pytest.raises(AssetError, match="fake"):
            extract(tmp_path / name, list(assets.values()), tmp_path, ignore)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_never_passes_for_the_pinned_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name, whole = archive_of(data.draw(st.sampled_from(KINDS)))
    position = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[position] ^= data.draw(st.integers(1, 255))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / name).write_bytes(damaged)
    assets = make_assets(name, whole, MEMBERS)
    try:
        paths = extract(folder / name, list(assets.values()), folder, ignore)
    except AssetError:
        return
    assert paths["weights.bin"].read_bytes() == MEMBERS["package/models/weights.bin"]


def test_another_content_under_the_pinned_path_is_refused(tmp_path: Path) -> None:
    changed = {**MEMBERS, "package/models/graph.json": b'{"a": 2}' * 40}
    data = make_tgz(changed)
    (tmp_path / "fake-1.0.tgz").write_bytes(data)
    assets = make_assets("fake-1.0.tgz", data, MEMBERS)
    with pytest.raises(AssetError, match="not the pinned file"):
        extract(tmp_path / "fake-1.0.tgz", [assets["graph.json"]], tmp_path, ignore)
    assert not (tmp_path / "graph.json.part").exists()


def test_an_endless_member_is_read_no_further_than_its_pin(tmp_path: Path) -> None:
    data = make_tgz({"package/models/graph.json": b"x" * 5_000_000})
    (tmp_path / "fake-1.0.tgz").write_bytes(data)
    assets = make_assets("fake-1.0.tgz", data, MEMBERS)
    with pytest.raises(AssetError, match="not the pinned file"):
        extract(tmp_path / "fake-1.0.tgz", [assets["graph.json"]], tmp_path, ignore)


def test_a_link_under_the_pinned_path_has_no_effect(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(MEMBERS["package/models/graph.json"])
    data = make_tgz({}, links={"package/models/graph.json": str(secret)})
    (tmp_path / "fake-1.0.tgz").write_bytes(data)
    assets = make_assets("fake-1.0.tgz", data, MEMBERS)
    with pytest.raises(AssetError, match="no member package"):
        extract(tmp_path / "fake-1.0.tgz", [assets["graph.json"]], tmp_path, ignore)


def test_an_unknown_compression_is_named(tmp_path: Path) -> None:
    data = make_deb(OTHERS, "none").replace(b"data.tar   ", b"data.tar.br")
    (tmp_path / "fake_1.0_all.deb").write_bytes(data)
    assets = make_assets("fake_1.0_all.deb", data, MEMBERS)
    with pytest.raises(AssetError, match=r"data\.tar\.br"):
        extract(tmp_path / "fake_1.0_all.deb", list(assets.values()), tmp_path, ignore)
