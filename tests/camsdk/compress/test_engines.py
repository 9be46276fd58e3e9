"""Times are medians of what ran; what did not run says why."""

import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from camsdk.compress import engines, timing_child
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


def test_nothing_is_left_of_an_engine_whose_start_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[subprocess.Popen[str]] = []

    class Silent(subprocess.Popen[str]):
        """Says nothing, until it is killed."""

        def __init__(self, command: list[str], **options: Any) -> None:
            super().__init__([sys.executable, "-c", "import sys; sys.stdin.read()"], **options)
            started.append(self)

    def interrupted(child: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(engines, "is_installed", lambda _: True)
    monkeypatch.setattr(engines.subprocess, "Popen", Silent)
    monkeypatch.setattr(engines._Child, "_read", interrupted)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        time_engines([Entry("MNN", "float", b"model")], TENSOR)
    assert started[0].returncode is not None
    assert not list(tmp_path.iterdir())
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()


def test_openvino_computes_in_float(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its default is bf16 where the processor has it, which this one may not."""
    given: dict[str, object] = {}

    class Core:
        def read_model(self, content: bytes) -> bytes:
            return content

        def compile_model(
            self, model: bytes, device: str, config: Mapping[str, object]
        ) -> SimpleNamespace:
            given.update(config)
            request = SimpleNamespace(infer=lambda tensors: tensors)
            return SimpleNamespace(create_infer_request=lambda: request)

    monkeypatch.setitem(sys.modules, "openvino_telemetry", None)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=Core))
    (tmp_path / "model").write_bytes(b"model")
    run = timing_child.openvino(str(tmp_path / "model"), TENSOR)
    run()
    assert given["INFERENCE_PRECISION_HINT"] == "f32"


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
