"""The cpu runtime against good and hostile models. After each the agent's process is as before."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from camagent.runtimes.base import Runtime
from camagent.runtimes.cpu import CpuRuntime, CpuSettings
from camagent.runtimes.cpu_worker import PACKED_MAGIC
from camsdk.artifact import packed
from camsdk.artifact.hardware import local_hardware
from camsdk.artifact.onnx_check import DETECTOR_OPERATORS
from camsdk.compress.pack_model import pack_model
from camsdk.errors import InvalidInput, RuntimeFailure
from support import models

pytestmark = pytest.mark.slow

ONE = np.ones(1, np.float32)
LOOPS = DETECTOR_OPERATORS | {"Loop"}


def start(model: onnx.ModelProto, **settings: object) -> CpuRuntime:
    return CpuRuntime.start(model.SerializeToString(), **settings)  # type: ignore[arg-type] # by name


def open_files() -> list[str]:
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except FileNotFoundError:  # the descriptor of this very listing
            continue
    return sorted(links)


def shared_memory() -> list[str]:
    return sorted(entry.name for entry in Path("/dev/shm").iterdir())


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Whatever a test does to a runtime: no descriptor, process or shared memory stays behind."""
    gc.collect()
    files, memory = open_files(), shared_memory()
    yield
    gc.collect()
    assert open_files() == files
    assert shared_memory() == memory
    assert [child for child in psutil.Process().children() if "cpu_worker" in str(child)] == []
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)


def wait_until_gone(pid: int, timeout_s: float) -> float:
    """Seconds until the process has ended; a zombie whose new parent is slow counts as ended."""
    start_s = time.monotonic()
    while time.monotonic() - start_s < timeout_s:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                break
        except psutil.NoSuchProcess:
            break
        time.sleep(0.01)
    else:
        pytest.fail(f"process {pid} still runs after {timeout_s} s")
    return time.monotonic() - start_s


def test_it_computes_what_the_reference_computes() -> None:
    model = models.conv(32)
    tensor = np.random.default_rng(1).normal(size=(1, 3, 32, 32)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": tensor})
    with start(model) as runtime:
        outputs = runtime.infer(tensor)
        assert list(outputs) == ["y"]
        np.testing.assert_allclose(outputs["y"], expected, rtol=1e-5, atol=1e-5)
        first = outputs["y"].copy()
        runtime.infer(tensor + 1)
        np.testing.assert_array_equal(outputs["y"], first)  # the caller owns what it got
        typed: Runtime = runtime
        assert typed.infer(np.asfortranarray(tensor))["y"].tobytes() == first.tobytes()


@pytest.mark.parametrize(
    ("onnx_type", "dtype"),
    [
        (TensorProto.UINT8, np.uint8),
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.INT64, np.int64),
        (TensorProto.DOUBLE, np.float64),
    ],
)
def test_tensors_of_other_types(onnx_type: int, dtype: type[np.generic]) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    model = models.make_model([node], [2, "n"], dtype=onnx_type, out_dtype=onnx_type)
    with start(model) as runtime:
        for width in (0, 1, 7):
            tensor = np.arange(2 * width).reshape(2, width).astype(dtype)
            result = runtime.infer(tensor)["y"]
            assert result.dtype == tensor.dtype
            np.testing.assert_array_equal(result, tensor)


def test_several_outputs_and_scalars() -> None:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0),
        helper.make_node("Mul", ["x", "x"], ["squares"]),
    ]
    model = models.make_model(nodes, [5])
    model.graph.output.append(helper.make_tensor_value_info("squares", TensorProto.FLOAT, None))
    with start(model) as runtime:
        outputs = runtime.infer(np.arange(5, dtype=np.float32))
    assert outputs["y"].shape == ()
    assert outputs["y"] == 10
    np.testing.assert_array_equal(outputs["squares"], [0, 1, 4, 9, 16])


@pytest.mark.parametrize(
    "tensor",
    [
        np.ones((1, 3, 32, 32), np.float64),
        np.ones((1, 3, 32, 31), np.float32),
        np.ones((3, 32, 32), np.float32),
    ],
)
def test_a_wrong_input_is_the_callers_error(tensor: np.ndarray) -> None:
    with start(models.conv(32)) as runtime:
        with pytest.raises(InvalidInput, match="not float32"):
            runtime.infer(tensor)
        assert runtime.infer(np.zeros((1, 3, 32, 32), np.float32))["y"].shape == (1, 4, 2, 2)
        assert runtime.restarts == 0


def test_too_big_an_input() -> None:
    model = models.make_model([helper.make_node("ReduceMax", ["x"], ["y"])], ["n"])
    with start(model) as runtime:
        limit = CpuSettings().tensor_limit_mib << 20
        with pytest.raises(InvalidInput, match="over"):
            runtime.infer(np.zeros(limit // 4 + 1, np.float32))
        assert runtime.infer(np.zeros(limit // 4, np.float32))["y"] == 0


def test_threads_share_one_runtime() -> None:
    model = models.make_model([helper.make_node("Neg", ["x"], ["y"])], [1])
    wrong: list[float] = []
    with start(model) as runtime:

        def work(value: float) -> None:
            for _ in range(50):
                result = runtime.infer(np.full(1, value, np.float32))["y"]
                if result[0] != -value:
                    wrong.append(value)

        threads = [threading.Thread(target=work, args=(value,)) for value in (1.0, 2.0, 3.0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_cost_is_accounted() -> None:
    with start(models.slow_products(256, 40)) as runtime:
        loaded_s = runtime.cpu_time_s
        assert 0.01 < loaded_s < 10
        start_s = time.perf_counter()
        for _ in range(5):
            runtime.infer(ONE)
        wall_s = time.perf_counter() - start_s
        # One thread that computes all the time: neither less nor more than the wall clock.
        assert 0.2 * wall_s < runtime.cpu_time_s - loaded_s < 1.2 * wall_s
        assert 20 << 20 < runtime.rss_bytes < 150 << 20
        cost_s = runtime.cpu_time_s
    assert runtime.cpu_time_s >= cost_s  # what it has cost is known after the end too
    assert runtime.rss_bytes == 0


def test_an_idle_runtime_does_not_spin() -> None:
    with start(models.slow_products(256, 4), threads=2) as runtime:
        runtime.infer(ONE)
        before_s = sum(psutil.Process(runtime.pid).cpu_times()[:2])
        time.sleep(0.5)
        assert sum(psutil.Process(runtime.pid).cpu_times()[:2]) - before_s <= 0.02


def test_closing_twice_and_use_after_close() -> None:
    runtime = start(models.conv(32))
    runtime.close()
    runtime.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        runtime.infer(np.zeros((1, 3, 32, 32), np.float32))


def test_a_loop_is_refused_by_name() -> None:
    with pytest.raises(RuntimeFailure, match="operator Loop"):
        start(models.endless_loop())


def test_an_endless_loop_meets_its_deadline() -> None:
    with start(models.endless_loop(), operators=LOOPS, infer_deadline_s=0.4) as runtime:
        for attempt in range(2):
            start_s = time.monotonic()
            with pytest.raises(RuntimeFailure, match=r"no answer within 0\.4 s"):
                runtime.infer(ONE)
            assert time.monotonic() - start_s < 2
            assert runtime.restarts == attempt
            assert runtime.pid == 0
        assert runtime.cpu_time_s > 0.5


def test_slow_work_of_allowed_operators_meets_its_deadline() -> None:
    runtime = start(models.slow_products(), infer_deadline_s=0.4)
    with runtime, pytest.raises(RuntimeFailure, match="no answer within"):
        runtime.infer(ONE)


def test_a_model_that_loads_too_slowly() -> None:
    with pytest.raises(RuntimeFailure, match=r"no answer within 0\.01 s"):
        start(models.conv(32), load_deadline_s=0.01)


def test_8_gib_asked_for_by_the_input() -> None:
    with start(models.fill()) as runtime:
        assert runtime.infer(ONE * 1000)["y"] == 0
        with pytest.raises(RuntimeFailure, match="Failed to allocate memory"):
            runtime.infer(ONE * (2 << 30))
        assert runtime.infer(ONE * 1000)["y"] == 0
        assert runtime.rss_bytes < 150 << 20


def test_8_gib_constant() -> None:
    with (
        pytest.raises(RuntimeFailure, match="allocate memory"),
        start(models.constant_of_8_gib()) as runtime,
    ):
        runtime.infer(ONE)


def test_a_memory_limit_below_what_the_libraries_need() -> None:
    with pytest.raises(RuntimeFailure, match="the model failed"):
        start(models.conv(32), memory_limit_mib=100)


def test_more_output_than_there_is_room_for() -> None:
    limit = CpuSettings().tensor_limit_mib << 20
    with start(models.wide_output(limit // 4)) as runtime:
        assert runtime.infer(ONE)["y"].nbytes == limit
    runtime = start(models.wide_output(limit // 4 + 1))
    with runtime, pytest.raises(RuntimeFailure, match="outputs have more than"):
        runtime.infer(ONE)


@pytest.mark.parametrize("kind", ["traversal", "absolute", "symlink", "hardlink", "own memory"])
def test_external_data_is_never_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(np.full(4, 42, np.float32).tobytes())
    (tmp_path / "link").symlink_to(secret)
    (tmp_path / "hard").hardlink_to(secret)
    locations = {
        "traversal": "../" * 12 + str(secret).lstrip("/"),
        "absolute": str(secret),
        "symlink": "link",
        "hardlink": "hard",
        "own memory": "*/_ORT_MEM_ADDR_/*",  # how onnxruntime marks data that lies at an address
    }
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeFailure, match="weights in another file"):
        start(models.external_data(locations[kind], offset=4096 if kind == "own memory" else None))


@pytest.mark.parametrize("domain", ["evil.example", "com.microsoft"])
def test_custom_operators_are_refused(domain: str) -> None:
    with pytest.raises(RuntimeFailure, match=f"operator of the domain {domain}"):
        start(models.custom_operator(domain))


@pytest.mark.parametrize(
    "model",
    [
        b"",
        b"garbage" * 100,
        bytes(1000),
        b"\x80\x04\x95" + bytes(50),
        models.conv().SerializeToString()[:-30],
    ],
    ids=["empty", "text", "zeros", "pickle", "cut"],
)
def test_other_files_are_refused(model: bytes) -> None:
    with pytest.raises(RuntimeFailure, match="the model"):
        CpuRuntime.start(model)


def test_onnxruntimes_own_format_is_not_a_way_round_the_check() -> None:
    """Valid ONNX whose bytes 4 to 8 mark a flatbuffer: it is read as the ONNX that was checked."""
    model = models.make_model([helper.make_node("Neg", ["x"], ["y"])], [1])
    model.producer_name = ""
    disguise = b"\x12\x0a" + b"xx" + b"ORTM" + b"xxxx"  # producer_name = "xxORTMxxxx"
    data = disguise + model.SerializeToString()
    assert data[4:8] == b"ORTM"
    with CpuRuntime.start(data) as runtime:
        assert runtime.infer(ONE)["y"] == -1


def test_a_valid_file_that_is_no_valid_graph() -> None:
    model = models.make_model([helper.make_node("Add", ["x", "nowhere"], ["y"])], [1])
    with pytest.raises(RuntimeFailure, match="nowhere"):
        start(model)


def test_two_inputs_are_refused() -> None:
    model = models.make_model([helper.make_node("Add", ["x", "x2"], ["y"])], [1])
    model.graph.input.append(helper.make_tensor_value_info("x2", TensorProto.FLOAT, [1]))
    with pytest.raises(RuntimeFailure, match="2 inputs"):
        start(model)


def test_a_child_killed_between_two_calls_is_not_noticed_by_the_second() -> None:
    with start(models.conv(32)) as runtime:
        tensor = np.ones((1, 3, 32, 32), np.float32)
        expected = runtime.infer(tensor)["y"]
        os.kill(runtime.pid, signal.SIGKILL)
        wait_until_gone(runtime.pid, 5)
        np.testing.assert_array_equal(runtime.infer(tensor)["y"], expected)
        assert runtime.restarts == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_child_killed_in_mid_run_fails_the_call_and_recovers(how: signal.Signals) -> None:
    size = np.full(1, 1, np.float32)
    with start(models.slow_products(1024, 200), infer_deadline_s=30) as runtime:
        killer = threading.Timer(0.2, os.kill, (runtime.pid, how))
        killer.start()
        with pytest.raises(RuntimeFailure, match=f"died, by signal {how.name}"):
            runtime.infer(size)
        killer.join()
        assert runtime.pid == 0
        killer = threading.Timer(0.5, lambda: os.kill(runtime.pid, how))
        killer.start()
        with pytest.raises(RuntimeFailure, match="died"):
            runtime.infer(size)
        killer.join()
        assert runtime.restarts == 1


PARENT = """
import sys, time
import numpy as np
from camagent.runtimes.cpu import CpuRuntime
from camsdk.artifact.onnx_check import DETECTOR_OPERATORS
model = sys.stdin.buffer.read()
runtime = CpuRuntime.start(model, operators=DETECTOR_OPERATORS | {"Loop"}, infer_deadline_s=1.0)
print(runtime.pid, flush=True)
if sys.argv[1] == "busy":
    runtime.infer(np.ones(1, np.float32))
else:
    time.sleep(60)
"""


@pytest.mark.parametrize(("state", "limit_s"), [("idle", 1.0), ("busy", 3.0)])
def test_kill_9_of_the_agent_ends_the_child_too(state: str, limit_s: float) -> None:
    agent = subprocess.Popen(
        [sys.executable, "-c", PARENT, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with agent:
        assert agent.stdin is not None
        assert agent.stdout is not None
        agent.stdin.write(models.endless_loop().SerializeToString())
        agent.stdin.close()
        child = int(agent.stdout.readline())
        time.sleep(0.3)
        assert psutil.Process(child).is_running()
        agent.kill()
        agent.wait()
    wait_until_gone(child, limit_s)


def test_a_stopped_child_meets_its_deadline() -> None:
    with start(models.conv(32), infer_deadline_s=0.3) as runtime:
        os.kill(runtime.pid, signal.SIGSTOP)
        with pytest.raises(RuntimeFailure, match="no answer"):
            runtime.infer(np.ones((1, 3, 32, 32), np.float32))
        assert runtime.infer(np.ones((1, 3, 32, 32), np.float32))["y"].shape == (1, 4, 2, 2)


def test_100_failures_leak_nothing() -> None:
    """The fixture compares what is open before and after."""
    with start(models.conv(32)) as runtime:
        tensor = np.ones((1, 3, 32, 32), np.float32)
        for _ in range(20):
            os.kill(runtime.pid, signal.SIGKILL)
            runtime.infer(tensor)
    for _ in range(20):
        with pytest.raises(RuntimeFailure):
            CpuRuntime.start(b"garbage")


def test_the_child_inherits_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMCTL_TOKEN", "secret")
    with start(models.conv(32)) as runtime:
        process = psutil.Process(runtime.pid)
        assert "CAMCTL_TOKEN" not in process.environ()
        assert process.cwd() == "/"
        # Standard streams, socket and tensors: nothing else is open in it.
        assert process.num_fds() == 5


def test_onnxruntimes_telemetry_is_off() -> None:
    """Left on, it keeps a data base in the user's cache folder and sends hashes of models."""
    with start(models.conv(32)) as runtime:
        runtime.infer(np.ones((1, 3, 32, 32), np.float32))
        process = psutil.Process(runtime.pid)
        assert process.open_files() == []
        assert process.net_connections() == []
        assert process.num_threads() == 1


def test_hardware_of_this_machine() -> None:
    assert local_hardware() in {"cpu-x86_64", "cpu-aarch64"}


def test_the_child_is_confined(caplog: pytest.LogCaptureFixture) -> None:
    with start(models.conv(32)) as runtime:
        status = Path(f"/proc/{runtime.pid}/status").read_text()
        assert "Seccomp:\t2" in status
        assert "NoNewPrivs:\t1" in status
        limits = Path(f"/proc/{runtime.pid}/limits").read_text()
        assert f"Max address space         {1024 << 20}" in limits
    assert caplog.records == []


def test_a_packed_model_runs_as_the_same_model() -> None:
    model = models.conv(32)
    content = pack_model(model.SerializeToString())
    assert PACKED_MAGIC == packed.MAGIC == content[:8]
    image = np.random.default_rng(1).normal(size=(1, 3, 32, 32)).astype(np.float32)
    with start(model) as plain, CpuRuntime.start(content) as runtime:
        np.testing.assert_array_equal(runtime.infer(image)["y"], plain.infer(image)["y"])


@pytest.mark.parametrize("position", [20, 60, 200, -1])
def test_a_damaged_packed_model_is_refused(position: int) -> None:
    content = bytearray(pack_model(models.conv(32).SerializeToString()))
    content[position] ^= 0x10
    with pytest.raises(RuntimeFailure, match=r"(un)?packed (model|tensor)"):
        CpuRuntime.start(bytes(content))


def test_a_packed_model_is_checked_after_it_was_unpacked() -> None:
    with pytest.raises(RuntimeFailure, match="Loop"):
        CpuRuntime.start(pack_model(models.endless_loop().SerializeToString()))


def test_a_packed_model_cannot_grow_over_the_limit() -> None:
    large = models.make_model([onnx.helper.make_node("Add", ["x", "w"], ["y"])], [1])
    tensor = onnx.numpy_helper.from_array(np.zeros(1 << 21, np.int8), "w")
    large.graph.initializer.append(tensor)
    content = pack_model(large.SerializeToString())
    assert len(content) < 2048
    runtime = CpuRuntime(content, CpuSettings(model_limit_mib=1))
    with runtime, pytest.raises(RuntimeFailure, match="over 1048576"):
        runtime.infer(ONE)
