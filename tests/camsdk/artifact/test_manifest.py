import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from camsdk.artifact.manifest import (
    CanarySpec,
    InputSpec,
    Lineage,
    Manifest,
    OutputSpec,
    parse_reference,
)
from camsdk.errors import CamError, DataCorrupted, InvalidInput
from support.artifacts import make_manifest

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
labels = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)

manifests = st.builds(
    make_manifest,
    name=names,
    version=st.integers(1, 999_999_999),
    hardware=st.lists(
        st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True), min_size=1, max_size=4
    ).map(tuple),
    precision=st.sampled_from(["fp32", "fp16", "int8", "w4a8", "w1a16"]),
    classes=st.lists(labels, min_size=1, max_size=8).map(tuple),
    metrics=st.dictionaries(labels, numbers, max_size=5),
    created_timestamp_s=st.floats(0, 1e12),
    lineage=st.builds(
        Lineage,
        source=texts,
        source_sha256=st.just("a" * 64),
        tool=texts,
        tool_version=texts,
        options=st.dictionaries(texts, texts, max_size=4),
        calibration_sha256=st.sampled_from([None, "b" * 64]),
    ),
)


@given(manifests)
def test_round_trip_has_one_byte_form(manifest: Manifest) -> None:
    data = manifest.to_bytes()
    again = Manifest.from_bytes(data)
    assert again == manifest
    assert again.to_bytes() == data


@given(manifests, st.data())
def test_a_changed_byte_gives_another_manifest_or_none(
    manifest: Manifest, data: st.DataObject
) -> None:
    raw = bytearray(manifest.to_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= data.draw(st.integers(1, 255))
    try:
        changed = Manifest.from_bytes(bytes(raw))
    except DataCorrupted:
        return
    assert changed != manifest
    assert changed.to_bytes() == bytes(raw)


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(DataCorrupted):
        Manifest.from_bytes(noise)


def respell(manifest: Manifest, **options: Any) -> bytes:
    return json.dumps(json.loads(manifest.to_bytes()), **options).encode()


@pytest.mark.parametrize(
    "spelling",
    [
        lambda m: respell(m, sort_keys=True),  # spaces
        lambda m: respell(m, separators=(",", ":"), sort_keys=True) + b"\n",
        lambda m: m.to_bytes().replace(b'"version":1}', b'"version":1,"version":1}'),
        lambda m: m.to_bytes().replace(b"0.001", b"1e-3"),
        lambda m: m.to_bytes().replace(b"person", b"\\u0070erson"),
        lambda m: b"\xef\xbb\xbf" + m.to_bytes(),
    ],
)
def test_only_the_canonical_spelling_is_read(spelling: Any) -> None:
    manifest = make_manifest()
    data = spelling(manifest)
    assert data != manifest.to_bytes()
    with pytest.raises(DataCorrupted, match=r"canonical|not valid"):
        Manifest.from_bytes(data)


@pytest.mark.parametrize(
    "hostile",
    [b"[" * 100_000, b'{"a":' * 50_000, b"1" * 100_000, b" " * (1 << 20), b"x" * ((1 << 20) + 1)],
    ids=["nested lists", "nested objects", "long number", "blanks", "over the limit"],
)
def test_hostile_json_is_refused(hostile: bytes) -> None:
    with pytest.raises(DataCorrupted):
        Manifest.from_bytes(hostile)


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/passwd",
        "..",
        ".hidden",
        "a/b",
        "a\\b",
        "A",
        "",
        "a" * 64,
        "a\n",
        "a\0",
        "é",
    ],
)
def test_names_that_could_reach_elsewhere_are_refused(name: str) -> None:
    manifest = json.loads(make_manifest().to_bytes())
    manifest["members"][1]["path"] = name
    data = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    with pytest.raises(DataCorrupted, match=r"members\.1\.path"):
        Manifest.from_bytes(data)
    with pytest.raises(ValidationError):
        make_manifest(name=name)


def test_the_message_names_the_field() -> None:
    broken = make_manifest().to_bytes().replace(b'"version":1', b'"version":"1"')
    with pytest.raises(DataCorrupted, match="version: has to be a valid integer"):
        Manifest.from_bytes(broken)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (b'"kind":', b'"kin":1,"kind":', "kin: there is no such field"),
        (b'"name":"tiny"', b'"name":"T"', "name: takes lower-case letters, digits"),
        (b'"layout":"NCHW"', b'"layout":"CHW"', "input.layout: has to be 'NCHW' or 'NHWC'"),
        (b'"std":[1.0', b'"std":[0.0', "input: std must be above 0"),
        (b',"version":1', b"", "version: is missing"),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(before: bytes, after: bytes, said: str) -> None:
    start, _, end = make_manifest().to_bytes().rpartition(before)
    broken = start + after + end
    with pytest.raises(DataCorrupted) as caught:
        Manifest.from_bytes(broken)
    assert caught.value.message.startswith(f"the manifest is not valid: {said}")


def test_members_are_listed_once_sorted_with_one_model_and_a_canary() -> None:
    canary, model = make_manifest().members
    packed = model.model_copy(update={"path": "model.camq", "format": "packed"})
    fields = dict(make_manifest())
    for members in (
        (model, canary),
        (canary, canary, model),
        (model, model),
        (canary, model, model),
        (canary, packed, model),
        (canary,),
        (),
    ):
        with pytest.raises(ValidationError, match=r"members|Value error"):
            Manifest(**fields | {"members": members})
    with pytest.raises(ValidationError, match="not an npz member"):
        make_manifest(canary=CanarySpec(path="model.onnx", max_abs_error=0.0))
    assert make_manifest().model == model
    assert Manifest(**fields | {"members": (canary, packed)}).model == packed


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_metric_is_nan_or_infinite(value: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        make_manifest(metrics={"ap50": value})


def test_shape_follows_the_layout() -> None:
    spec = {"name": "x", "width": 64, "height": 32, "color": "RGB"}
    assert InputSpec(layout="NCHW", **spec).shape == (1, 3, 32, 64)
    assert InputSpec(layout="NHWC", **spec).shape == (1, 32, 64, 3)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"std": (1.0, 0.0, 1.0)}, "std"),
        ({"dtype": "uint8", "mean": (1.0, 0.0, 0.0)}, "uint8"),
        ({"width": 4}, "width"),
    ],
)
def test_inputs_that_make_no_sense_are_refused(changes: dict[str, Any], problem: str) -> None:
    fields = {"name": "x", "width": 64, "height": 32, "layout": "NCHW", "color": "RGB"}
    with pytest.raises(ValidationError, match=problem):
        InputSpec(**fields | changes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tensors": ("a",)}, "two tensors per stride"),
        ({"tensors": ("a", "a")}, "twice"),
        ({"reg_max": 0}, "reg_max"),
        ({"decoder": "boxes-scores-classes"}, "three tensors"),
        ({"score_threshold": 1.5}, "score_threshold"),
    ],
)
def test_outputs_that_make_no_sense_are_refused(changes: dict[str, Any], problem: str) -> None:
    fields: dict[str, Any] = {
        "decoder": "nanodet-gfl",
        "tensors": ("a", "b"),
        "strides": (8,),
        "reg_max": 7,
        "score_threshold": 0.3,
        "nms_iou": 0.6,
    }
    OutputSpec(**fields)
    with pytest.raises(ValidationError, match=problem):
        OutputSpec(**fields | changes)


def test_references() -> None:
    assert make_manifest(version=12).reference == "tiny:12"
    assert parse_reference("tiny:12") == ("tiny", 12)
    assert parse_reference("tiny") == ("tiny", None)


@pytest.mark.parametrize(
    "text",
    ["", ":1", "a:", "a:0", "a:01", "a:-1", "a:1:2", "A:1", "a:１", "a\n", "../a", "a:9999999999"],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a model's name"):
        parse_reference(text)


@given(st.text(max_size=30))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        name, version = parse_reference(text)
    except CamError:
        return
    assert text == (name if version is None else f"{name}:{version}")


def test_a_manifest_of_an_older_version_keeps_its_bytes() -> None:
    """As it was written before there were classifiers."""
    written = (
        b'{"canary":{"max_abs_error":0.001,"min_agreement":1.0,"path":"canary.npz"},'
        b'"classes":["person","bicycle"],"created_timestamp_s":1700000000.0,"format_version":1,'
        b'"hardware":["cpu-x86_64","cpu-aarch64"],"input":{"color":"BGR","dtype":"float32",'
        b'"height":32,"layout":"NCHW","mean":[0.0,0.0,0.0],"name":"x","resize":"stretch",'
        b'"std":[1.0,1.0,1.0],"width":32},"kind":"detector","lineage":{"calibration_sha256":null,'
        b'"options":{},"source":"made for a test","source_sha256":"' + b"0" * 64 + b'","tool":"t",'
        b'"tool_version":"1"},"members":['
        b'{"format":"npz","path":"canary.npz","sha256":"SHA0","size_bytes":42},'
        b'{"format":"onnx","path":"model.onnx","sha256":"SHA1","size_bytes":200}],'
        b'"metrics":{"ap50":0.5},"name":"tiny","output":{"decoder":"boxes-scores-classes",'
        b'"max_detections":300,"nms_iou":0.6,"reg_max":0,"score_threshold":0.35,"strides":[],'
        b'"tensors":["boxes","scores","classes"]},"precision":"fp32","version":1}'
    )
    manifest = make_manifest()
    for index, member in enumerate(manifest.members):
        written = written.replace(f"SHA{index}".encode(), member.sha256.encode())
    assert manifest.to_bytes() == written
    assert Manifest.from_bytes(written) == manifest


def test_limits_by_tensor_survive_and_are_not_written_where_there_are_none() -> None:
    spec = CanarySpec(path="canary.npz", max_abs_error=8.0, max_abs_errors={"scores": 0.02})
    manifest = make_manifest(canary=spec)
    assert b'"max_abs_errors":{"scores":0.02}' in manifest.to_bytes()
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert manifest.canary.limit("scores") == 0.02
    assert manifest.canary.limit("boxes") == 8.0
    empty = (
        make_manifest()
        .to_bytes()
        .replace(b'"min_agreement"', b'"max_abs_errors":{},"min_agreement"')
    )
    with pytest.raises(DataCorrupted, match="canonical"):
        Manifest.from_bytes(empty)
    with pytest.raises(ValidationError, match="max_abs_errors"):
        CanarySpec(path="canary.npz", max_abs_error=8.0, max_abs_errors={"scores": -1.0})


CLASSES: dict[str, Any] = {"decoder": "class-scores", "tensors": ("scores",)}
BOXES: dict[str, Any] = {"decoder": "boxes-scores-classes", "tensors": ("b", "s", "c")}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (BOXES | {"nms_iou": 0.5}, "needs score_threshold"),
        (BOXES | {"score_threshold": 0.5}, "needs nms_iou"),
        (CLASSES | {"score_threshold": 0.5}, "has no boxes"),
        (CLASSES | {"nms_iou": 0.5, "decoder": "class-map"}, "has no boxes"),
        (CLASSES | {"strides": (8,)}, "has no strides"),
        (CLASSES | {"tensors": ("a", "b")}, "needs one tensor"),
    ],
)
def test_thresholds_are_of_boxes_alone(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        OutputSpec(**fields)


def test_the_kind_is_what_the_outputs_say() -> None:
    output = OutputSpec(**CLASSES)
    manifest = make_manifest(kind="classifier", output=output)
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    with pytest.raises(ValidationError, match="a detector with the outputs of a classifier"):
        make_manifest(output=output)
