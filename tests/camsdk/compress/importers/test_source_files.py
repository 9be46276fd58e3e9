"""The digest of what was imported covers every file that was read."""

import hashlib
import json
from pathlib import Path

import pytest

from camsdk.compress.importers.source_files import digest
from camsdk.errors import NotFound


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_single_file_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"model")
    assert digest(tmp_path / "net.onnx", "onnx") == sha256(b"model")


def test_a_second_file_is_covered(tmp_path: Path) -> None:
    net, weights = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    net.write_bytes(b"structure")
    found = set()
    for content in (b"weights", b"others"):
        weights.write_bytes(content)
        found.add(digest(net, "caffe", weights))
    assert len(found | {sha256(b"structure")}) == 3
    lines = f"{sha256(b'structure')} 9 net.prototxt\n{sha256(b'others')} 6 net.caffemodel\n"
    assert digest(net, "caffe", weights) == sha256(lines.encode())


def test_names_and_boundaries_in_a_folder_are_covered(tmp_path: Path) -> None:
    contents: list[dict[str, bytes]] = [
        {"a": b"12", "b": b"3"},
        {"a": b"1", "b": b"23"},
        {"a": b"12", "c": b"3"},
        {"a": b"12", "sub/b": b"3"},
        {"a": b"123"},
    ]
    found = set()
    for number, files in enumerate(contents):
        for name, content in files.items():
            path = tmp_path / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        found.add(digest(tmp_path / str(number), "saved-model"))
    assert len(found) == len(contents)


def test_shards_of_tensorflow_js_are_covered(tmp_path: Path) -> None:
    model = tmp_path / "model.json"
    names = ["shard1.bin", "missing.bin", "../outside"]
    (tmp_path.parent / "outside").write_bytes(b"")
    groups = [{"paths": names, "weights": []}, {"paths": ["shard2.bin"], "weights": []}]
    document = {"note": '"paths": [nonsense]', "paths": 1, "weightsManifest": groups}
    model.write_text(json.dumps(document))
    found = set()
    for first, second in ((b"1", b"2"), (b"3", b"2"), (b"3", b"4")):
        (tmp_path / "shard1.bin").write_bytes(first)
        (tmp_path / "shard2.bin").write_bytes(second)
        found.add(digest(model, "tfjs"))
    assert len(found) == 3
    given = tmp_path / "given.bin"
    given.write_bytes(b"5")
    assert digest(model, "tfjs", given) not in found


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotFound, match=r"saved/link cannot be read.*readable"):
        digest(folder, "saved-model")
