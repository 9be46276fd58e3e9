"""From an ONNX model and what is known of it to a manifest with its members, ready to be packed.

The canary's input is a rendered picture, so that no frame of anybody's camera is shipped. Its
expected outputs are what this machine computes, and the tolerance follows from the precision.
"""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from camsdk.artifact import packed
from camsdk.artifact.bundle import list_members
from camsdk.artifact.decode import check_shapes
from camsdk.artifact.manifest import (
    MAX_MEMBER_BYTES,
    CanarySpec,
    InputSpec,
    Lineage,
    Manifest,
    OutputSpec,
    Precision,
)
from camsdk.artifact.onnx_check import check_model
from camsdk.artifact.preprocess import make_input
from camsdk.compress.importers.runnable import CHECKER_ERRORS, check_bounded
from camsdk.compress.pack_model import pack_model
from camsdk.compress.sessions import Array, Session
from camsdk.errors import DataCorrupted, InvalidInput, RuntimeFailure, UnsupportedModel
from camsdk.vision.frames import Frame

TOOL_VERSION: Final = metadata.version("camplatform")
"""For lineages: the version of this distribution."""

CPU_HARDWARE: Final = ("cpu-aarch64", "cpu-x86_64")
MODEL_MEMBER: Final = "model.onnx"
PACKED_MEMBER: Final = "model.camq"
CANARY_MEMBER: Final = "canary.npz"

_PICTURE: Final = (640, 480)
_CLASS_ERROR: Final = 0.1
"""Of a class id: another class never agrees, whatever its number."""
_SAID_CHARACTERS: Final = 200


@dataclass(frozen=True)
class Description:
    """What a model's manifest says besides what follows from its files.

    Attributes: as in ``Manifest``.
    """

    name: str
    version: int
    precision: Precision
    classes: tuple[str, ...]
    input: InputSpec
    output: OutputSpec
    lineage: Lineage
    hardware: tuple[str, ...] = CPU_HARDWARE


@dataclass(frozen=True)
class Draft:
    """A model ready to be packed and signed: ``bundle.pack(manifest, members, key)``.

    Attributes:
        members: Content by name.
    """

    manifest: Manifest
    members: Mapping[str, bytes]

    @property
    def model(self) -> bytes:
        """The serialized ONNX model, unpacked."""
        content = self.members[self.manifest.model.path]
        if self.manifest.model.format == "packed":
            return packed.unpack(content, max_bytes=MAX_MEMBER_BYTES)
        return content


def check_stored(content: bytes) -> None:
    """That the model of an artifact, which anybody may have written, can be read and run here.

    Raises:
        DataCorrupted: It is damaged.
        UnsupportedModel: It uses what a device would refuse, or a shape in it is not static.
        ResourceExhausted: A tensor in it would be too large.
    """
    check_model(content)
    try:
        model = onnx.ModelProto.FromString(content)
        onnx.checker.check_model(model)
        _read_all(model.graph)
    except (DecodeError, KeyError, TypeError, *CHECKER_ERRORS) as error:
        raise DataCorrupted(
            f"the artifact's model is damaged: {' '.join(str(error).split())[:_SAID_CHARACTERS]}",
            "fetch the artifact again, or make it again",
        ) from error
    check_bounded(model)


def _read_all(graph: onnx.GraphProto) -> None:
    """Protobuf gives names as they are, and weights are decoded only when they are asked for."""
    names = [info.name for info in [*graph.input, *graph.output, *graph.value_info]]
    for node in graph.node:
        names += [node.name, *node.input, *node.output, *(item.name for item in node.attribute)]
    for tensor in graph.initializer:
        names.append(tensor.name)
        numpy_helper.to_array(tensor)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"the name {name!r} is no text")


def make_draft(
    model: onnx.ModelProto,
    description: Description,
    *,
    outputs: Mapping[str, Array] | None = None,
    metrics: Mapping[str, float] | None = None,
    created_timestamp_s: float | None = None,
    is_packed: bool = False,
) -> Draft:
    """Run the canary and write the manifest.

    Args:
        model: What devices will run; checked as they check it.
        outputs: What it gives for ``canary_input``, by name; by default it is run in this process,
            which a stranger's must not be (``importers.trial``).
        metrics: Measured figures by name.
        created_timestamp_s: Seconds since the Unix epoch, by default now.
        is_packed: Whether to store the model at about the entropy of its weights
            (``camsdk.compress.pack_model``); what a device runs is the same, byte for byte.

    Raises:
        UnsupportedModel: It uses what a device would refuse, or gives NaN or infinity.
        InvalidInput: Its outputs have other shapes than the description implies.
        RuntimeFailure: It does not run.
    """
    content = model.SerializeToString(deterministic=True)
    check_model(content)
    tensor = canary_input(description.input)
    if outputs is None:
        outputs = Session(content).infer(tensor)
    expected = {name: np.asarray(outputs[name]) for name in description.output.tensors}
    _check_finite(expected)
    members = {CANARY_MEMBER: write_canary(tensor, expected)}
    members |= {PACKED_MEMBER: pack_model(content)} if is_packed else {MODEL_MEMBER: content}
    manifest = Manifest(
        name=description.name,
        version=description.version,
        kind=description.output.kind,
        hardware=description.hardware,
        precision=description.precision,
        classes=description.classes,
        input=description.input,
        output=description.output,
        members=list_members(members),
        canary=_tolerance(description.precision, description.output, expected),
        metrics=dict(metrics or {}),
        lineage=description.lineage,
        created_timestamp_s=time.time() if created_timestamp_s is None else created_timestamp_s,
    )
    _check_outputs(expected, manifest)
    return Draft(manifest, members)


def _check_finite(outputs: Mapping[str, Array]) -> None:
    """A canary of NaN fails on every device."""
    for name, value in outputs.items():
        if not np.isfinite(value).all():
            raise UnsupportedModel(
                f"the model's output {name!r} is not finite for a picture: NaN or infinity",
                "look for NaN in its weights, and whether --mean and --std are as it was trained",
            )


def _check_outputs(outputs: Mapping[str, Array], manifest: Manifest) -> None:
    """A model whose outputs nobody can decode would fail on every device that runs it."""
    try:
        check_shapes(outputs, manifest)
    except RuntimeFailure as error:
        raise InvalidInput(
            error.message,
            "say the classes, the order of the outputs and, of nanodet-gfl, strides and reg_max "
            "as the model has them",
        ) from error


def describe(manifest: Manifest) -> Description:
    """The description that a manifest was made from, to make a derived model's from it."""
    return Description(
        name=manifest.name,
        version=manifest.version,
        precision=manifest.precision,
        classes=manifest.classes,
        input=manifest.input,
        output=manifest.output,
        lineage=manifest.lineage,
        hardware=manifest.hardware,
    )


def canary_input(spec: InputSpec) -> Array:
    """The canary's input, of the rendered picture."""
    return make_input(rendered_picture(), spec)


def write_canary(tensor: Array, expected: Mapping[str, Array]) -> bytes:
    """The canary's member, see ``CanarySpec``; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"output/{name}": value for name, value in expected.items()}
    np.savez_compressed(buffer, input=tensor, **arrays)
    return buffer.getvalue()


def _tolerance(
    precision: Precision, output: OutputSpec, expected: Mapping[str, Array]
) -> CanarySpec:
    """What another processor may differ by.

    Float kernels differ in the order of their sums only. Integer kernels agree, but the float
    scaling between them may round a value to the neighbouring step, which later layers spread.
    Pixels, scores and class ids have a scale each; all other outputs are logits and share one.
    """
    largest = {name: float(np.abs(value).max(initial=0)) for name, value in expected.items()}
    share, agreement = (1e-4, 1.0) if precision == "fp32" else (2e-2, 0.99)
    by_tensor: dict[str, float] = {}
    if output.decoder == "boxes-scores-classes":
        boxes, scores, classes = output.tensors
        by_tensor = {
            boxes: share * largest[boxes],
            # Where the picture shows nothing all scores are small, and their rounding is not.
            scores: share * max(1.0, largest[scores]),
            classes: _CLASS_ERROR,
        }
    return CanarySpec(
        path=CANARY_MEMBER,
        max_abs_error=share * max(largest.values()),
        min_agreement=agreement,
        max_abs_errors=by_tensor,
    )


def rendered_picture() -> Frame:
    """A still life for the canary: shaded ground, textured blocks, upright figures. Always equal.

    Integer arithmetic only, so that it is the same picture on every machine.
    """
    width, height = _PICTURE
    rows, columns = np.mgrid[0:height, 0:width]
    luma = 60 + rows * 90 // height + (columns * 7 + rows * 13) % 11
    u = np.full((height // 2, width // 2), 120)
    v = np.full((height // 2, width // 2), 132)
    for index in range(9):
        left, top = 40 + index * 61, 90 + (index * 83) % 210
        tall, wide = 60 + (index * 37) % 90, 18 + (index * 11) % 26
        body = (slice(top, top + tall), slice(left, left + wide))
        luma[body] = 30 + (index * 53) % 170 + (rows[body] * columns[body]) % 23
        head = (slice(top - wide // 2, top), slice(left + wide // 4, left + wide * 3 // 4))
        luma[head] = 150
        half = tuple(slice(part.start // 2, part.stop // 2) for part in body)
        u[half], v[half] = 90 + index * 9, 170 - index * 8
    planes = (np.clip(plane, 16, 235).astype(np.uint8) for plane in (luma, u, v))
    return Frame(0, 0.0, *planes)
