"""The canary: what agrees passes; what differs, is not finite or makes no sense is refused."""

import io
import random
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from camagent.canary import run_canary
from camsdk.artifact.bundle import Bundle, list_members, open_bundle, pack
from camsdk.artifact.keys import public_bytes
from camsdk.artifact.manifest import CanarySpec
from camsdk.errors import ArtifactRefused, CamError, DataCorrupted
from support.block_artifacts import canary
from support.fake_runtime import BlockRuntime, manifest

KEY = Ed25519PrivateKey.generate()


def bundle(content: bytes, **spec: Any) -> Bundle:
    members = {"canary.npz": content, "model.onnx": b"fine"}
    limits = CanarySpec(path="canary.npz", **{"max_abs_error": 1e-3} | spec)
    made = manifest().model_copy(update={"members": list_members(members), "canary": limits})
    return open_bundle(pack(made, members, KEY), [public_bytes(KEY)])


def arrays(**changes: np.ndarray | None) -> bytes:
    with np.load(io.BytesIO(canary())) as stored:
        values: dict[str, Any] = {name: stored[name] for name in stored.files}
    values |= {name.replace("output_", "output/"): array for name, array in changes.items()}
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in values.items() if array is not None})
    return file.getvalue()


class Changed(BlockRuntime):
    """Gives other outputs than its model."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self._changes = changes

    def infer(self, tensor: Any) -> dict[str, Any]:
        outputs: Mapping[str, Any] = super().infer(tensor)
        changed = {**outputs, **self._changes}
        return {name: array for name, array in changed.items() if array is not None}


def test_the_same_outputs_pass() -> None:
    runtime = BlockRuntime()
    run_canary(bundle(canary()), runtime, 5.0)
    assert runtime.calls == 2


def test_a_stated_share_may_differ() -> None:
    # One of the 6 values of an input (4 of the box, score, class) is off.
    runtime = Changed(scores=np.full((1, 1), 0.8, np.float32))
    run_canary(bundle(canary(), min_agreement=0.8), runtime, 5.0)
    with pytest.raises(ArtifactRefused, match=r"0\.8333 of its outputs agree"):
        run_canary(bundle(canary(), min_agreement=0.9), runtime, 5.0)


PIXELS = {"max_abs_error": 8.0, "min_agreement": 0.99}
"""As int8 artifacts of 416 pixels had it for all their outputs."""
BY_TENSOR = {"boxes": 8.0, "scores": 0.02, "classes": 0.1}


@pytest.mark.parametrize(
    ("name", "change"),
    [("scores", -0.8), ("scores", -0.05), ("classes", 1.0), ("boxes", 9.0)],
)
def test_each_output_has_a_limit_of_its_own(name: str, change: float) -> None:
    outputs = {
        "boxes": np.array([[[40, 10, 70, 30]]], np.float32),
        "scores": np.full((1, 1), 0.9, np.float32),
        "classes": np.zeros((1, 1), np.float32),
    }
    outputs[name] = outputs[name] + np.float32(change)
    own = {"classes": outputs["classes"], "scores": outputs["scores"]}
    if name == "boxes":
        own = {"boxes": outputs["boxes"]}
    limited = bundle(canary(), **PIXELS, max_abs_errors=BY_TENSOR)
    run_canary(limited, BlockRuntime(), 5.0)
    with pytest.raises(ArtifactRefused, match=rf"in {name}, {BY_TENSOR[name]:g} may be"):
        run_canary(limited, Changed(**own), 5.0)
    if name != "boxes":  # an artifact of an older version is judged as it was
        run_canary(bundle(canary(), **PIXELS), Changed(**own), 5.0)


@pytest.mark.parametrize(
    "outputs",
    [
        {"scores": np.full((1, 1), np.nan, np.float32)},
        {"scores": np.full((1, 1), np.inf, np.float32)},
        {"scores": np.full((1, 2), 0.9, np.float32)},
        {"scores": None},
    ],
    ids=["nan", "infinite", "shape", "missing"],
)
def test_nonsense_is_refused(outputs: Mapping[str, Any]) -> None:
    with pytest.raises(ArtifactRefused, match="canary of tiny:1"):
        run_canary(bundle(canary()), Changed(**outputs), 5.0)


@pytest.mark.parametrize(
    "content",
    [
        b"no archive",
        arrays(input=None),
        arrays(output_scores=None),
        arrays(input=np.zeros((2, 8, 8, 3), np.uint8)),
        arrays(output_scores=np.zeros((1, 1), np.float32)),
        arrays(input=np.array([{"pickled": "object"}], dtype=object)),
    ],
    ids=["no archive", "no input", "no output", "input's shape", "one output", "pickle"],
)
def test_a_canary_without_sense_is_refused(content: bytes) -> None:
    with pytest.raises(DataCorrupted, match="canary"):
        run_canary(bundle(content), BlockRuntime(), 5.0)


def test_the_deadline_is_for_all_together() -> None:
    with pytest.raises(ArtifactRefused, match=r"longer than 0\.03 s"):
        run_canary(bundle(canary()), BlockRuntime(delay_s=0.02), 0.03)


def lying_array(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    fields = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue() + bytes(16)


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 31, 1 << 20), (-1,)])
def test_a_header_that_claims_terabytes_is_damage(shape: tuple[int, ...]) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("input.npy", lying_array(shape))
    with pytest.raises(DataCorrupted, match="does not parse"):
        run_canary(bundle(file.getvalue()), BlockRuntime(), 5.0)


def test_a_bomb_is_damage() -> None:
    file = io.BytesIO()
    np.savez_compressed(file, input=np.zeros(300 << 20, np.uint8))
    assert len(file.getvalue()) < 1 << 20
    with pytest.raises(DataCorrupted, match="does not parse"):
        run_canary(bundle(file.getvalue()), BlockRuntime(), 5.0)


def test_any_damage_is_an_error_of_ours() -> None:
    file = io.BytesIO()
    with np.load(io.BytesIO(canary())) as stored:
        np.savez_compressed(file, **{name: stored[name] for name in stored.files})
    dice = random.Random(7)
    kinds = set()
    for _ in range(600):
        damaged = bytearray(file.getvalue())
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        try:
            run_canary(bundle(bytes(damaged)), BlockRuntime(), 5.0)
        except CamError as error:
            kinds.add(type(error))
    assert DataCorrupted in kinds
