"""Signed artifacts of the bright-block detector: real bundles whose model is only a word."""

import io

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from camsdk.artifact.bundle import list_members, pack
from camsdk.artifact.manifest import CanarySpec
from camsdk.errors import RuntimeFailure
from support.fake_runtime import SIDE, BlockRuntime, manifest


def start_block_runtime(model: bytes) -> BlockRuntime:
    """Loads an artifact of :func:`make_artifact`: ``refused`` does not load, ``slow`` is slow."""
    word = model.strip()
    if word == b"refused":
        raise RuntimeFailure("the model uses an operator that is not allowed")
    return BlockRuntime(delay_s=0.05 if word == b"slow" else 0.0)


def canary(offset: float = 0.0) -> bytes:
    """Reference inputs, and what ``BlockRuntime`` gives for them, ``offset`` away."""
    images = np.zeros((2, SIDE, SIDE, 3), np.uint8)
    images[0, 10:30, 40:70] = 255
    images[1, 60:90, 5:25] = 255
    outputs = [BlockRuntime().infer(image[None]) for image in images]
    arrays = {f"output/{name}": np.concatenate([o[name] for o in outputs]) for name in outputs[0]}
    file = io.BytesIO()
    np.savez(file, input=images, **{name: array + offset for name, array in arrays.items()})
    return file.getvalue()


def make_artifact(
    key: Ed25519PrivateKey, version: int, *, model: bytes = b"fine", offset: float = 0.0, **changes
) -> bytes:
    """A signed bundle of 20 kB whose model is a word that ``start_block_runtime`` knows."""
    members = {"canary.npz": canary(offset), "model.onnx": model + b" " * 20_000}
    made = manifest().model_copy(
        update={
            "version": version,
            "members": list_members(members),
            "canary": CanarySpec(path="canary.npz", max_abs_error=1e-3),
        }
        | changes
    )
    return pack(made, members, key)
