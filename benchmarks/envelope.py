"""Sealing and opening an artifact against bare AES-256-GCM of the same bytes.

    python benchmarks/envelope.py [--mib 20] [--rounds 15] [--json]

One pass encrypts the whole bundle under one key: the least that any envelope must do. Medians of
interleaved rounds, CPU time of this thread; ``ratio`` is against the bare cipher's same direction.
The cipher runs in vector units at many GiB/s, so what ``unseal`` and ``open_bundle`` cost above it
is SHA-256 (content against digest, body for the signature, each member) and touching fresh memory:
the sealed and the clear bundle are two copies, both larger than any cache.
"""

import argparse
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from camsdk.artifact import bundle, keys
from camsdk.artifact.envelope import seal, unseal
from camsdk.artifact.manifest import CanarySpec, InputSpec, Lineage, Manifest, OutputSpec

DEVICE = "bench-0"
NONCE = bytes(12)


@dataclass(frozen=True)
class Row:
    """One operation.

    Attributes:
        ms: Median CPU time, milliseconds.
        ms_per_mib: The same for each MiB of bundle.
        ratio: Against the bare cipher in the same direction.
    """

    name: str
    ms: float
    ms_per_mib: float
    ratio: float


def make_bundle(model_bytes: int, key: Ed25519PrivateKey) -> bytes:
    """A signed bundle with a model of this size; its content does not matter to ciphers."""
    pattern = bytes(range(256)) * (model_bytes // 256 + 1)
    members = {"canary.npz": b"c" * 64, "model.onnx": pattern[:model_bytes]}
    manifest = Manifest(
        name="bench",
        version=1,
        hardware=("cpu-x86_64",),
        precision="int8",
        classes=("thing",),
        input=InputSpec(name="x", width=416, height=416, layout="NCHW", color="BGR"),
        output=OutputSpec(
            decoder="boxes-scores-classes",
            tensors=("boxes", "scores", "classes"),
            score_threshold=0.3,
            nms_iou=0.6,
        ),
        members=bundle.list_members(members),
        canary=CanarySpec(path="canary.npz", max_abs_error=0.0),
        lineage=Lineage(
            source="benchmark", source_sha256="0" * 64, tool="benchmark", tool_version="1"
        ),
        created_timestamp_s=0.0,
    )
    return bundle.pack(manifest, members, key)


def measure(operations: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, all of them in turn in every round.

    Each runs once untimed before, so that none pays for the memory that another has fragmented.
    """
    times: dict[str, list[float]] = {name: [] for name in operations}
    for _ in range(rounds):
        for name, operation in operations.items():
            operation()
            start_s = time.thread_time()
            operation()
            times[name].append(time.thread_time() - start_s)
    return {name: statistics.median(values) for name, values in times.items()}


def run(mib: int, rounds: int) -> tuple[list[Row], int, int]:
    """Rows, size of the bundle, size of its envelope, bytes."""
    signing_key, sealing_key = keys.generate_signing_key(), keys.generate_sealing_key()
    data = make_bundle(mib << 20, signing_key)
    trust = [keys.public_bytes(signing_key)]
    digest = bundle.open_bundle(data, trust).digest
    recipient = keys.public_bytes(sealing_key)
    sealed = seal(data, recipient, device_id=DEVICE, digest=digest)
    cipher = AESGCM(AESGCM.generate_key(256))
    encrypted = cipher.encrypt(NONCE, data, None)
    baselines = {
        "encrypt, bare": lambda: cipher.encrypt(NONCE, data, None),
        "decrypt, bare": lambda: cipher.decrypt(NONCE, encrypted, None),
        "sha256, bare": lambda: hashlib.sha256(data).digest(),
    }
    ours = {
        "seal": lambda: seal(data, recipient, device_id=DEVICE, digest=digest),
        "unseal": lambda: unseal(sealed, sealing_key, device_id=DEVICE, digest=digest),
        "open_bundle": lambda: bundle.open_bundle(data, trust, hardware="cpu-x86_64"),
        "unseal + open_bundle": lambda: bundle.open_bundle(
            unseal(sealed, sealing_key, device_id=DEVICE, digest=digest), trust
        ),
    }
    seconds = measure(baselines | ours, rounds)
    size_mib = len(data) / 2**20
    rows = [
        Row(
            name,
            value * 1e3,
            value * 1e3 / size_mib,
            value
            / seconds["encrypt, bare" if name.startswith(("encrypt", "seal")) else "decrypt, bare"],
        )
        for name, value in seconds.items()
    ]
    return rows, len(data), len(sealed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--mib", type=int, default=20, help="size of the model")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rows, size, sealed_size = run(options.mib, options.rounds)
    if options.json:
        body = {"bundle_bytes": size, "sealed_bytes": sealed_size}
        print(json.dumps(body | {"rows": [asdict(row) for row in rows]}))
        return
    print(f"bundle {size:,} B, sealed {sealed_size:,} B (+{sealed_size - size} B)")
    print(f"{'operation':<22}{'CPU ms':>9}{'ms/MiB':>9}{'ratio':>8}")
    for row in rows:
        print(f"{row.name:<22}{row.ms:>9.2f}{row.ms_per_mib:>9.3f}{row.ratio:>8.2f}")


if __name__ == "__main__":
    main()
