"""Model artifacts for tests: manifests and bundles of any content."""

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from camsdk.artifact import bundle
from camsdk.artifact.manifest import CanarySpec, InputSpec, Lineage, Manifest, OutputSpec

MEMBERS: Mapping[str, bytes] = {"canary.npz": b"canary" * 7, "model.onnx": b"model" * 40}


def make_manifest(members: Mapping[str, bytes] = MEMBERS, **changes: Any) -> Manifest:
    """A valid manifest of these members; ``changes`` replace top-level fields."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "version": 1,
        "hardware": ("cpu-x86_64", "cpu-aarch64"),
        "precision": "fp32",
        "classes": ("person", "bicycle"),
        "input": InputSpec(name="x", width=32, height=32, layout="NCHW", color="BGR"),
        "output": OutputSpec(
            decoder="boxes-scores-classes",
            tensors=("boxes", "scores", "classes"),
            score_threshold=0.35,
            nms_iou=0.6,
        ),
        "members": bundle.list_members(members),
        "canary": CanarySpec(path="canary.npz", max_abs_error=1e-3),
        "metrics": {"ap50": 0.5},
        "lineage": Lineage(
            source="made for a test", source_sha256="0" * 64, tool="t", tool_version="1"
        ),
        "created_timestamp_s": 1_700_000_000.0,
    }
    return Manifest(**fields | changes)


def make_bundle(
    key: Ed25519PrivateKey | None, members: Mapping[str, bytes] = MEMBERS, **changes: Any
) -> bytes:
    """A bundle of these members, signed by ``key``; ``changes`` as in ``make_manifest``."""
    return bundle.pack(make_manifest(members, **changes), members, key)
