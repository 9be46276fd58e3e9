"""Output tensors become boxes as a cell-by-cell reading of the definition says."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from camsdk.artifact.decode import check_shapes, class_logits, class_scores, decode, suppress
from camsdk.artifact.manifest import InputSpec, Manifest, OutputSpec
from camsdk.errors import RuntimeFailure
from camsdk.vision import geometry
from support.artifacts import make_manifest

CLASSES = ("person", "bicycle", "car")
STRIDES = (8, 16)
BINS = 5
NAMES = ("logits_8", "distances_8", "logits_16", "distances_16")

Outputs = dict[str, NDArray[Any]]


def manifest(resize: str = "stretch", **changes: Any) -> Manifest:
    output: dict[str, Any] = {
        "decoder": "nanodet-gfl", "tensors": NAMES, "strides": STRIDES, "reg_max": BINS - 1,
        "score_threshold": 0.3, "nms_iou": 0.6,
    }  # fmt: skip
    return make_manifest(
        classes=CLASSES,
        input=InputSpec(
            name="x",
            width=64,
            height=48,
            layout="NCHW",
            color="BGR",
            resize=resize,  # type: ignore[arg-type] # one of two
        ),
        output=OutputSpec(**output | changes),
    )


def random_outputs(seed: int, spread: float = 3.0) -> Outputs:
    rng = np.random.default_rng(seed)
    outputs: Outputs = {}
    for stride in STRIDES:
        cells = (48 // stride, 64 // stride)
        outputs[f"logits_{stride}"] = rng.normal(-2, 1.5, (1, 3, *cells)).astype(np.float32)
        outputs[f"distances_{stride}"] = rng.normal(0, spread, (1, 4 * BINS, *cells)).astype(
            np.float32
        )
    return outputs


def quiet_outputs() -> Outputs:
    """Nothing to see."""
    return {
        name: np.full_like(value, -20) if name.startswith("logits") else np.zeros_like(value)
        for name, value in random_outputs(0).items()
    }


def by_cell(outputs: Outputs, threshold: float) -> list[tuple[float, int, list[float]]]:
    """Score, class and box in the input's pixels, one cell at a time."""
    found = []
    for stride in STRIDES:
        logits, spread = outputs[f"logits_{stride}"][0], outputs[f"distances_{stride}"][0]
        for row in range(48 // stride):
            for column in range(64 // stride):
                scores = [1 / (1 + math.exp(-value)) for value in logits[:, row, column]]
                best = max(range(3), key=scores.__getitem__)
                if scores[best] < threshold:
                    continue
                sides = []
                for side in range(4):
                    bins = [
                        math.exp(v) for v in spread[side * BINS : (side + 1) * BINS, row, column]
                    ]
                    mean = sum(index * value for index, value in enumerate(bins)) / sum(bins)
                    sides.append(mean * stride)
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                box = [x - sides[0], y - sides[1], x + sides[2], y + sides[3]]
                found.append((scores[best], best, box))
    return sorted(found, key=lambda item: -item[0])


@pytest.mark.parametrize("seed", range(5))
def test_every_cell_is_read_as_defined(seed: int) -> None:
    outputs = random_outputs(seed)
    found = decode(outputs, manifest(nms_iou=1.0, max_detections=1000), 128, 96)
    expected = by_cell(outputs, 0.3)
    assert len(found) == len(expected) > 3
    for index, (score, class_id, box) in enumerate(expected):
        assert found.scores[index] == pytest.approx(score, abs=1e-5)
        assert found.class_ids[index] == class_id
        clipped = np.clip(np.multiply(box, 2), 0, [128, 96, 128, 96])
        np.testing.assert_allclose(found.xyxy[index], clipped, atol=1e-3)


def test_letterbox_maps_back_to_the_frame() -> None:
    outputs = quiet_outputs()
    outputs["logits_8"][0, 2, 1, 3] = 4  # centre (28, 12) of 64 x 48
    outputs["distances_8"][0, 1::BINS, 1, 3] = 50  # one stride to each side
    found = decode(outputs, manifest("letterbox"), 640, 240)  # 64 x 24 inside
    np.testing.assert_allclose(found.xyxy, [[200, 40, 360, 200]], atol=1e-2)
    assert found.class_ids.tolist() == [2]


def test_nothing_above_the_threshold_is_no_box() -> None:
    found = decode(quiet_outputs(), manifest(), 128, 96)
    assert len(found) == 0
    assert found.xyxy.shape == (0, 4)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_hostile_numbers_give_finite_boxes_inside_the_frame(data: st.DataObject) -> None:
    outputs = random_outputs(data.draw(st.integers(0, 99)), spread=30)
    strange = st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3e38, 0.0])
    for value in outputs.values():
        for place in data.draw(st.lists(st.integers(0, value.size - 1), max_size=8)):
            value.reshape(-1)[place] = data.draw(strange)
    threshold = data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    found = decode(outputs, manifest(score_threshold=threshold), 100, 70)
    assert np.isfinite(found.xyxy).all()
    assert ((found.scores >= threshold - 1e-6) & (found.scores <= 1)).all()
    assert (found.xyxy >= 0).all()
    assert (found.xyxy <= [100, 70, 100, 70]).all()
    assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("logits_8", None, "is missing"),
        ("logits_16", np.zeros((1, 4, 3, 4), np.float32), r"has shape \(1, 4, 3, 4\)"),
        ("distances_8", np.zeros((1, 20, 6, 7), np.float32), r"has shape \(1, 20, 6, 7\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    name: str, value: NDArray[Any] | None, words: str
) -> None:
    outputs = random_outputs(0)
    outputs.pop(name)
    if value is not None:
        outputs[name] = value
    with pytest.raises(RuntimeFailure, match=f"'{name}' {words}"):
        decode(outputs, manifest(), 64, 48)


def test_boxes_that_come_decoded_are_scaled_filtered_and_suppressed() -> None:
    spec = make_manifest(
        classes=CLASSES,
        input=InputSpec(name="x", width=64, height=48, layout="NCHW", color="RGB"),
    )
    outputs: Outputs = {
        "boxes": np.float32([[[8, 8, 16, 16], [8, 8, 16, 17], [0, 0, 9, 9], [1, 1, 5, 5]]]),
        "scores": np.float32([[0.9, 0.8, 0.5, 0.2]]),
        "classes": np.float32([[1, 1, 7, 0]]),  # 7 is no class, 0.2 is too little
    }
    found = decode(outputs, spec, 128, 96)
    np.testing.assert_allclose(found.xyxy, [[16, 16, 32, 32]])
    assert found.class_ids.tolist() == [1]
    del outputs["scores"]
    with pytest.raises(RuntimeFailure, match="boxes"):
        decode(outputs, spec, 128, 96)


BOXES = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 12), st.integers(0, 12)),
    min_size=1,
    max_size=25,
)


def to_xyxy(rows: list[tuple[int, int, int, int]]) -> NDArray[np.float32]:
    array = np.array(rows, np.float32)
    array[:, 2:] += array[:, :2]
    return array


@given(BOXES, BOXES)
def test_overlap_is_what_counting_pixels_gives(
    first: list[tuple[int, int, int, int]], second: list[tuple[int, int, int, int]]
) -> None:
    a, b = to_xyxy(first), to_xyxy(second)
    grid = np.zeros((len(a) + len(b), 32, 32), np.bool_)
    for mask, (x1, y1, x2, y2) in zip(grid, np.concatenate([a, b]).astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    inner = np.einsum("ayx,byx->ab", grid[: len(a)].astype(int), grid[len(a) :].astype(int))
    sizes = grid.sum(axis=(1, 2))
    union = sizes[: len(a), np.newaxis] + sizes[len(a) :] - inner
    expected = inner / np.maximum(union, 1)
    np.testing.assert_allclose(geometry.iou(a, b), expected, atol=1e-6)


@given(BOXES, st.floats(0.1, 0.9), st.integers(1, 3))
def test_suppression_keeps_the_best_of_every_heap(
    rows: list[tuple[int, int, int, int]], iou: float, class_count: int
) -> None:
    xyxy = to_xyxy(rows)
    class_ids = np.arange(len(xyxy), dtype=np.int64) % class_count
    keep = suppress(xyxy, class_ids, iou)
    overlaps = (geometry.iou(xyxy, xyxy) > iou) & (class_ids[:, np.newaxis] == class_ids)
    np.fill_diagonal(overlaps, False)
    assert keep[0] == 0
    assert not overlaps[np.ix_(keep, keep)].any()  # what stays does not overlap
    for gone in set(range(len(xyxy))) - set(keep.tolist()):
        assert overlaps[gone, keep[keep < gone]].any()  # what goes overlaps something better


def of_classes(decoder: str) -> Manifest:
    output = OutputSpec(decoder=decoder, tensors=("y",))  # type: ignore[arg-type] # one of two
    return make_manifest(classes=CLASSES, kind=output.kind, output=output)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_a_class_for_the_frame(shape: tuple[int, ...]) -> None:
    spec, logits = of_classes("class-scores"), np.array([1.0, 3.0, 2.0], np.float32)
    found = class_logits({"y": logits.reshape(shape)}, spec)
    np.testing.assert_array_equal(found, logits)
    scores = class_scores(found)
    np.testing.assert_allclose(scores, np.exp(logits) / np.exp(logits).sum(), rtol=1e-6)
    large = class_scores(np.array([1e4, -1e4, 1e4], np.float32))
    np.testing.assert_array_equal(large, [0.5, 0.0, 0.5])
    with pytest.raises(RuntimeFailure, match="is a classifier"):
        decode({"y": logits.reshape(shape)}, spec, 64, 48)


def test_a_class_for_every_cell() -> None:
    logits = np.random.default_rng(0).normal(size=(1, 3, 4, 5)).astype(np.float32)
    found = class_logits({"y": logits}, of_classes("class-map"))
    np.testing.assert_array_equal(found, logits[0])
    np.testing.assert_allclose(class_scores(found).sum(axis=0), np.ones((4, 5)), rtol=1e-6)


@pytest.mark.parametrize(
    ("decoder", "tensor"),
    [
        ("class-scores", np.zeros((1, 4), np.float32)),
        ("class-scores", np.zeros((3,), np.float32)),
        ("class-scores", np.zeros((2, 3), np.float32)),
        ("class-scores", np.zeros((1, 3, 2, 2), np.float32)),
        ("class-scores", np.array([[0, np.nan, 0]], np.float32)),
        ("class-map", np.zeros((1, 3), np.float32)),
        ("class-map", np.zeros((1, 3, 0, 4), np.float32)),
        ("class-map", np.zeros((1, 4, 3, 3), np.float32)),
        ("class-map", np.full((1, 3, 2, 2), np.inf, np.float32)),
        ("class-map", None),
    ],
)
def test_what_are_no_classes_is_refused(decoder: str, tensor: NDArray[np.float32] | None) -> None:
    outputs = {} if tensor is None else {"y": tensor}
    with pytest.raises(RuntimeFailure, match="'y'"):
        class_logits(outputs, of_classes(decoder))


def _zeros(**shapes: tuple[int, ...]) -> Outputs:
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reg_max": BINS}, r"'distances_8' has shape \(1, 20, 6, 8\), .* says \(1, 24, 6, 8\)"),
        ({"strides": (8, 32)}, r"'logits_16' has shape \(1, 3, 3, 4\), .* says \(1, 3, 2, 2\)"),
        ({"tensors": (*NAMES[:3], "other")}, r"'other' is missing"),
    ],
)
def test_outputs_of_another_shape_are_named_whatever_they_hold(
    changes: dict[str, Any], words: str
) -> None:
    outputs = {name: value * 0 - 99 for name, value in random_outputs(0).items()}
    check_shapes(outputs, manifest())
    with pytest.raises(RuntimeFailure, match=words):
        check_shapes(outputs, manifest(**changes))


def test_boxes_scores_and_classes_have_to_be_as_many() -> None:
    spec = manifest(decoder="boxes-scores-classes", tensors=("b", "s", "c"), strides=(), reg_max=0)
    check_shapes(_zeros(b=(1, 7, 4), s=(1, 7), c=(1, 7)), spec)
    for flat in ((7,), (7, 1), (1, 7, 1)):
        check_shapes(_zeros(b=(1, 7, 4), s=flat, c=(1, 7)), spec)
    for other in ({"s": (1, 7, 3)}, {"c": (1, 6)}, {"b": (7, 4)}, {"b": (1, 7, 5)}):
        given = {"b": (1, 7, 4), "s": (1, 7), "c": (1, 7)} | other
        with pytest.raises(RuntimeFailure, match=f"{next(iter(other))}' has shape"):
            check_shapes(_zeros(**given), spec)
