"""Whatever a model's process says, the agent gets an error and keeps its memory to itself."""

import json
from pathlib import Path

import numpy as np
import pytest

from camagent.runtimes import child
from camagent.runtimes.channel import MAX_REPLY_BYTES
from camagent.runtimes.cpu import CpuRuntime
from camsdk.errors import RuntimeFailure

pytestmark = pytest.mark.slow

LOADED = json.dumps({"input": {"type": "tensor(float)", "shape": [1]}, "cpu_s": 0.1})
ONE = np.ones(1, np.float32)
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "WORKER_MODULE", "support.lying_worker")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def start(*replies: object) -> CpuRuntime:
    return CpuRuntime.start(json.dumps(replies).encode(), infer_deadline_s=0.5)


def outputs(**changes: object) -> str:
    row = {"name": "y", "dtype": "float32", "shape": [2], "offset": 32 * MIB} | changes
    return json.dumps({"outputs": [row], "cpu_s": 0.2})


def test_an_honest_reply_is_taken() -> None:
    with start(LOADED, outputs(), outputs(shape=[])) as runtime:
        np.testing.assert_array_equal(runtime.infer(ONE)["y"], [0, 0])
        assert runtime.infer(ONE)["y"].shape == ()
        assert runtime.cpu_time_s == 0.2


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "no json",
        "[]",
        "{}",
        "[" * 20_000,
        '{"cpu_s": 0}',
        '{"cpu_s": "much", "outputs": []}',
        '{"cpu_s": 0, "outputs": 1}',
        '{"cpu_s": 0, "outputs": [1]}',
        '{"cpu_s": 0, "outputs": [{}]}',
        "\xff\xfe",
        outputs(dtype="object"),
        outputs(dtype="float32, float32"),
        outputs(dtype=["float32"]),
        outputs(shape=[-1]),
        outputs(shape=[1.5]),
        outputs(shape=[True]),
        outputs(shape=[1] * 70),
        outputs(shape=[1 << 62, 1 << 62]),
        outputs(shape=[8 * MIB + 1]),
        outputs(shape="ab"),
        outputs(offset=0),
        outputs(offset=-4),
        outputs(offset=32 * MIB - 1),
        outputs(offset=64 * MIB - 7),
        outputs(offset=1 << 70),
        outputs(offset=None),
        "x" * (MAX_REPLY_BYTES + 1),
    ],
)
def test_lies_about_outputs(reply: str) -> None:
    with start(LOADED, reply) as runtime:
        with pytest.raises(RuntimeFailure):
            runtime.infer(ONE)
        assert runtime.pid == 0
        assert runtime.rss_bytes == 0


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "null",
        '{"cpu_s": 0}',
        '{"cpu_s": 0, "input": 1}',
        '{"cpu_s": 0, "input": {"type": "tensor(float)", "shape": ["a"]}}',
        '{"cpu_s": 0, "input": {"type": [], "shape": [1]}}',
        '{"cpu_s": 0, "input": {"type": "tensor(float)", "shape": [Infinity]}}',
        '{"cpu_s": 1' + "0" * 400 + "}",
        '{"cpu_s": 0, "error": "no"}',
        None,
    ],
)
def test_lies_about_the_model(reply: str | None) -> None:
    with pytest.raises(RuntimeFailure):
        start(reply)


def test_a_claim_of_infinite_cpu_time_is_not_believed() -> None:
    with start(
        LOADED, '{"cpu_s": 1e999, "outputs": []}', '{"cpu_s": -5, "outputs": []}'
    ) as runtime:
        assert runtime.infer(ONE) == {}
        assert runtime.infer(ONE) == {}
        assert runtime.cpu_time_s == 0.1


def test_silence() -> None:
    with start(LOADED, [60]) as runtime, pytest.raises(RuntimeFailure, match="no answer"):
        runtime.infer(ONE)


def test_death_is_told_with_the_last_words() -> None:
    words = "died, with status 3: out of lies"
    with start(LOADED, None) as runtime, pytest.raises(RuntimeFailure, match=words):
        runtime.infer(ONE)


def test_errors_are_passed_on_and_cost_no_restart() -> None:
    with start(LOADED, '{"cpu_s": 0, "error": "shapes differ"}', outputs()) as runtime:
        with pytest.raises(RuntimeFailure, match="shapes differ"):
            runtime.infer(ONE)
        assert runtime.infer(ONE)["y"].shape == (2,)
        assert runtime.restarts == 0
