"""What TensorFlow would open is refused before TensorFlow runs, soon and by name."""

import os
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from camsdk.compress.importers import environment
from camsdk.compress.importers.detect import import_model
from camsdk.compress.importers.saved_model import _REACHES_OUT, check_saved_model
from camsdk.compress.importers.tflite_reader import check_tflite
from camsdk.errors import CamError, DataCorrupted, ResourceExhausted, UnsupportedModel
from support.foreign_models import part, tf_node

GOLDEN = Path(__file__).parents[3] / "golden"
LITE = GOLDEN / "tensorflow_net_float.tflite"
SECONDS = 1.0


@pytest.fixture(autouse=True)
def _no_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    def ensure(**_: object) -> Path:
        pytest.fail("TensorFlow was started")

    monkeypatch.setattr(environment, "ensure", ensure)


def refused(path: Path, *words: str) -> CamError:
    started_s = time.process_time()
    with pytest.raises((DataCorrupted, UnsupportedModel, ResourceExhausted)) as caught:
        import_model(path, "saved-model" if path.is_dir() else "tflite")
    assert time.process_time() - started_s < SECONDS
    assert caught.value.hint
    for word in words:
        assert word in str(caught.value)
    return caught.value


def test_good_files_pass() -> None:
    check_tflite(LITE)
    check_tflite(GOLDEN / "tensorflow_net_int8.tflite")


def test_a_lite_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "net.tflite", LITE.read_bytes()
    for place in (0, 1, 8, 100, *range(200, len(whole), 97), len(whole) - 1):
        path.write_bytes(whole[:place])
        refused(path)
    path.write_bytes(whole[:8] + np.random.default_rng(1).bytes(20_000))
    refused(path)


def test_damaged_lite_files_give_a_typed_error_or_pass(tmp_path: Path) -> None:
    path, whole, random = tmp_path / "net.tflite", LITE.read_bytes(), np.random.default_rng(2)
    count = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(4):
            data[random.integers(len(data))] ^= 1 << random.integers(8)
        path.write_bytes(data)
        try:
            check_tflite(path)
        except CamError:
            count += 1
    assert count > 100


def word_at(data: bytes | bytearray, at: int) -> int:
    return int(struct.unpack_from("<i", data, at)[0])


def field_at(data: bytes | bytearray, table: int, field: int) -> int:
    """Where a field of a FlatBuffer's table lies."""
    fields = table - word_at(data, table)
    offset = int(struct.unpack_from("<H", data, fields + 4 + 2 * field)[0])
    assert offset
    return table + offset


def item_at(data: bytes | bytearray, table: int, field: int, index: int = 0) -> int:
    """Where an item of a list of tables lies."""
    place = field_at(data, table, field)
    place += word_at(data, place) + 4 + 4 * index
    return place + word_at(data, place)


def edited(tmp_path: Path, change: Callable[[bytearray, int], None]) -> Path:
    data = bytearray(LITE.read_bytes())
    change(data, word_at(data, 0))
    path = tmp_path / "net.tflite"
    path.write_bytes(data)
    return path


def test_a_custom_operator_of_a_lite_file_is_named_with_its_layer(tmp_path: Path) -> None:
    def change(data: bytearray, root: int) -> None:
        data[field_at(data, item_at(data, root, 1), 0)] = 32  # CUSTOM

    refused(edited(tmp_path, change), "custom operator ''", "of layer '", "cut the model")


def test_a_lite_tensor_of_a_giant_shape_is_named(tmp_path: Path) -> None:
    def change(data: bytearray, root: int) -> None:
        tensor = item_at(data, item_at(data, root, 2), 0)
        shape = field_at(data, tensor, 0)
        struct.pack_into("<i", data, shape + word_at(data, shape) + 4, 1 << 30)

    refused(edited(tmp_path, change), "'serving_default_image:0'", "elements")


def test_a_lite_list_of_billions_is_refused(tmp_path: Path) -> None:
    def change(data: bytearray, root: int) -> None:
        buffers = field_at(data, root, 4)
        struct.pack_into("<I", data, buffers + word_at(data, buffers), 0xFFFF_FFFF)

    refused(edited(tmp_path, change))


def test_lists_that_share_their_items_are_read_for_a_bounded_time(tmp_path: Path) -> None:
    """Of 100 kB: 5000 layers that are one, of 20 000 inputs each."""
    layers, inputs = 5000, 20_000

    def change(data: bytearray, root: int) -> None:
        field = field_at(data, item_at(data, root, 2), 3)
        data.extend(bytes(-len(data) % 4))
        start = len(data)
        struct.pack_into("<I", data, field, start - field)
        layer = start + 4 + 4 * layers + 12
        data.extend(struct.pack("<I", layers))
        data.extend(b"".join(struct.pack("<I", layer - start - 4 - 4 * i) for i in range(layers)))
        data.extend(struct.pack("<6H", 10, 8, 0, 4, 0, 0))  # only the inputs are given
        data.extend(struct.pack("<iII", 12, 4, inputs) + bytes(4 * inputs))

    refused(edited(tmp_path, change), "more than 2000000 steps", "smaller")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "net"
    with zipfile.ZipFile(GOLDEN / "tensorflow_net.zip") as archive:
        archive.extractall(folder)
    check_saved_model(folder)
    return folder


def test_a_saved_model_that_is_cut_or_noise_is_refused(saved: Path) -> None:
    path = saved / "saved_model.pb"
    whole = path.read_bytes()
    for place in (0, 1, len(whole) // 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place])
        refused(saved)
    path.write_bytes(whole[:4] + np.random.default_rng(1).bytes(10_000))
    refused(saved)


def test_variables_of_a_saved_model_must_be_there(saved: Path) -> None:
    (saved / "variables" / "variables.index").unlink()
    refused(saved, "variables/variables.index")


def make_link(saved: Path, path: Path) -> None:
    secret = saved.parent / "secret"
    path.rename(secret)
    path.symlink_to(secret)


def make_pipe(saved: Path, path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_large(saved: Path, path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(4 << 30)


@pytest.mark.parametrize("make", [make_link, make_pipe, make_large])
def test_files_of_a_saved_model_are_plain_and_bounded(
    saved: Path, make: Callable[[Path, Path], None]
) -> None:
    make(saved, next((saved / "variables").glob("variables.data*")))
    refused(saved)


def test_a_folder_behind_a_link_is_refused(saved: Path) -> None:
    make_link(saved, saved / "variables")
    refused(saved, "link")


@pytest.mark.parametrize("operator", ["PyFunc", "WriteFile", "LMDBReader"])
@pytest.mark.parametrize("is_in_function", [False, True])
def test_an_operator_that_reaches_out_is_named(
    saved: Path, operator: str, is_in_function: bool
) -> None:
    node = tf_node("my/layer", operator)  # field 1 of a graph
    if is_in_function:
        body = part(3, part(1, "my/layer") + part(2, operator))
        graph = part(2, part(1, body))
    else:
        graph = node
    path = saved / "saved_model.pb"
    path.write_bytes(path.read_bytes() + part(2, part(2, graph)))
    refused(saved, f"'{operator}'", "'my/layer'")


@pytest.mark.parametrize(
    "operator",
    [
        *(
            "InitializeTableFromTextFileV2",
            "InitializeTableFromDataset",
            "LMDBReader",
            "SqlDataset",
        ),
        *("CSVDatasetV2", "DebugNumericSummaryV2", "CreateSummaryDbWriter", "EagerPyFunc"),
        *("WriteRawProtoSummary", "RecordInput", "PrintV2", "ReadFile"),
        *("MatchingFiles", "ImmutableConst", "LoadDataset", "DatasetToTFRecord"),
        *("SaveDatasetV2", "TextLineReaderV2", "DecodeProtoV2", "RpcClient"),
        *("GenerateVocabRemapping",),
    ],
)
def test_all_of_a_family_reaches_out(operator: str) -> None:
    assert _REACHES_OUT.fullmatch(operator)


@pytest.mark.parametrize(
    "operator",
    [
        *("SaveV2", "RestoreV2", "MergeV2Checkpoints", "ReadVariableOp"),
        *("StatefulPartitionedCall", "Conv2D", "StringJoin", "LookupTableFindV2"),
        *("HashTableV2", "MergeSummary", "ScalarSummary", "Print"),
        *("NoOp", "VarHandleOp"),
    ],
)
def test_what_saved_models_hold_does_not(operator: str) -> None:
    assert not _REACHES_OUT.fullmatch(operator)
