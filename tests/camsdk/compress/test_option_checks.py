"""What cannot be trained is refused in words, before any work."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from camsdk.artifact.manifest import OutputSpec
from camsdk.compress import compressing
from camsdk.compress.compressing import compress
from camsdk.compress.footage import choose_frames, open_footage
from camsdk.compress.option_checks import check_batch
from camsdk.compress.options import (
    CodeSet,
    CompressOptions,
    Filter,
    PruneOptions,
    QuantizeOptions,
    TrainOptions,
    WeightOptions,
)
from camsdk.compress.packaging import Draft, make_draft
from camsdk.errors import InvalidInput
from support.clips import scene, write_video
from support.tiny_detector import DESCRIPTION

ROUNDED = CompressOptions(
    QuantizeOptions(WeightOptions(CodeSet(4))), train=TrainOptions(epochs=1, batch_size=1)
)
FILTERED = replace(ROUNDED, prune=PruneOptions(0.5, Filter()))
WIDTH = 8


def norm(source: str, name: str) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    values = {f"{name}.{part}": np.ones(WIDTH) for part in ("gamma", "beta", "mean", "variance")}
    return helper.make_node("BatchNormalization", [source, *values], [name], name), values


def classifier(*, has_late_norm: bool = True, is_foldable: bool = True) -> Draft:
    """With a BatchNorm over a plane, and one over single values; behind a layer, or not."""
    rng = np.random.default_rng(0)
    spread, spread_values = norm("c", "spread")
    single, single_values = norm("q" if is_foldable else "p", "single")
    squeezed = "p" if is_foldable or not has_late_norm else "single"
    squeeze = helper.make_node("Conv", [squeezed, "w1"], ["q"], "squeeze")
    end = "single" if has_late_norm and is_foldable else "q"
    middle = [squeeze, single] if is_foldable else [single, squeeze]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"], "stem", strides=[2, 2]),
        spread,
        helper.make_node("Relu", ["spread"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        *(middle if has_late_norm else [squeeze]),
        helper.make_node("Relu", [end], ["s"], "active"),
        helper.make_node("Flatten", ["s"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w2"], ["y"], "head"),
    ]
    values = {
        "w0": rng.normal(size=(WIDTH, 3, 3, 3)) / 5,
        "w1": rng.normal(size=(WIDTH, WIDTH, 1, 1)) / 3,
        "w2": rng.normal(size=(WIDTH, 2)),
        **spread_values,
        **(single_values if has_late_norm else {}),
    }
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 32, 32))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2))],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    output = OutputSpec(decoder="class-scores", tensors=("y",))
    return make_draft(model, replace(DESCRIPTION, output=output))


@pytest.mark.parametrize(
    ("options", "source", "is_refused"),
    [
        (FILTERED, classifier(), True),
        (FILTERED, classifier(has_late_norm=False), False),
        (ROUNDED, classifier(), False),  # it is folded before
        (ROUNDED, classifier(is_foldable=False), True),
    ],
)
def test_one_frame_a_step_is_refused_where_a_batchnorm_would_see_one_value(
    tmp_path: Path, options: CompressOptions, source: Draft, is_refused: bool
) -> None:
    clip = write_video(tmp_path / "yard.avi", scene(64, 64, 24))
    footage, split = choose_frames(open_footage(clip), calibration=2, evaluation=2)
    if not is_refused:
        assert compress(source, footage, options, split=split).choice.agreements
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressing, "Steps", lambda *_: pytest.fail("work was begun"))
        with pytest.raises(InvalidInput, match="node 'single', a BatchNorm, would see one value"):
            compress(source, footage, options, split=split)
    assert options.train is not None
    of_two = replace(options, train=replace(options.train, batch_size=2))
    with pytest.raises(InvalidInput, match="one frame a step"):
        check_batch(source, of_two, 1)
    check_batch(source, of_two, 2)
    check_batch(source, replace(options, train=None), 1)
