"""Times are medians of what ran; what did not run says why."""

from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from onnx import helper

from camsdk.compress import engines
from camsdk.compress.engines import Entry, is_installed, time_engines
from camsdk.compress.mnn import MnnOptions, export_mnn
from support import models

pytestmark = pytest.mark.engines

TENSOR = np.random.default_rng(0).normal(size=(1, 8, 24, 24)).astype(np.float32)


def network(count: int) -> onnx.ModelProto:
    """So many convolutions in a row."""
    rng = np.random.default_rng(1)
    arrays = {f"w{i}": rng.normal(0, 0.1, (8, 8, 3, 3)).astype(np.float32) for i in range(count)}
    names = ["x", *(f"t{i}" for i in range(1, count)), "y"]
    nodes = [
        helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], f"c{i}", pads=[1, 1, 1, 1])
        for i in range(count)
    ]
    return models.make_model(nodes, list(TENSOR.shape), **arrays)


def test_models_run_in_turn_and_more_work_takes_longer() -> None:
    few, many = (network(count).SerializeToString() for count in (1, 16))
    entries = [Entry("onnxruntime", "few", few), Entry("onnxruntime", "many", many)]
    first, second = time_engines(entries, TENSOR, runs=7)
    assert [first.variant, second.variant] == ["few", "many"]
    assert first.runs == second.runs == 7
    assert first.median_ms is not None
    assert second.low_ms is not None
    assert 0 < first.median_ms < second.low_ms
    assert first.version.count(".") == 2


def test_when_the_time_is_up_three_runs_remain() -> None:
    entry = Entry("onnxruntime", "float", network(1).SerializeToString())
    (timing,) = time_engines([entry], TENSOR, runs=50, budget_s=0.0)
    assert timing.runs == 3


def test_what_cannot_be_timed_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        Entry("onnxruntime", "broken", b"junk"),
        Entry("onnxruntime", "absent", None, "cannot be converted"),
    ]
    broken, absent = time_engines(entries, TENSOR)
    assert broken.median_ms is None
    assert "cannot be loaded" in broken.reason
    assert absent.reason == "cannot be converted"
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    assert not is_installed("OpenVINO")
    (gone,) = time_engines([Entry("OpenVINO", "float", b"")], TENSOR)
    assert gone == engines.Timing("OpenVINO", "float", reason="not installed")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("MNN") is None, reason="the extra mnn is not installed")
def test_mnn_is_timed_in_its_own_process_and_its_failures_are_told() -> None:
    file = export_mnn(network(2), [TENSOR], MnnOptions(weight_bits=None)).content
    good, bad = time_engines([Entry("MNN", "float", file), Entry("MNN", "bad", b"junk")], TENSOR)
    assert good.runs == 15
    assert good.median_ms is not None
    assert good.median_ms > 0
    assert bad.median_ms is None
    assert bad.reason.startswith("MNN failed: ")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("openvino") is None, reason="the extra openvino is not installed")
def test_openvino_is_timed_in_its_own_process_and_its_failures_are_told() -> None:
    content = network(2).SerializeToString()
    good, bad = time_engines(
        [Entry("OpenVINO", "float", content), Entry("OpenVINO", "bad", b"junk")], TENSOR
    )
    assert good.runs == 15
    assert good.version[:2] == "20"
    assert bad.reason.startswith("OpenVINO failed: ")
