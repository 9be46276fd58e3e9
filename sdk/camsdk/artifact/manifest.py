"""The manifest: all that is known of a model, in one signed JSON text.

No knowledge of a model lives outside its manifest: how a frame becomes the input tensor, how the
output tensors become boxes or classes, which hardware it was made for, how good it measured, where
it came from, and a reference input with its expected output (the canary) that proves on the device
that it still computes what it computed when it was made.

Invariants:

- A manifest has exactly one byte form, ``to_bytes``; ``from_bytes`` refuses any other spelling of
  the same value, so what was signed is what is read.
- Names of members are flat (no separator, no leading dot): a path cannot escape anything.
- All models are frozen, strict (no coercion of types) and refuse unknown fields, NaN and infinity.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
)
from pydantic import model_serializer as _model_serializer
from pydantic import model_validator as _model_validator

from camsdk.errors import DataCorrupted, InvalidInput

FORMAT_VERSION: Final = 1
MAX_MANIFEST_BYTES: Final = 1 << 20
MAX_MEMBERS: Final = 64
MAX_MEMBER_BYTES: Final = 1 << 30

NAME_PATTERN: Final = r"^[a-z0-9][a-z0-9._-]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""Of a model or a member: lower case, no separator, at most 63 characters."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Hardware = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""Such as ``cpu-x86_64`` or ``cpu-aarch64``: kind of runtime, then machine."""
Precision = Annotated[str, StringConstraints(pattern=r"^(fp32|fp16|int8|w[1-8]a([1-8]|16|32))$")]
"""``fp32``, ``fp16``, ``int8`` (weights and activations), or ``w4a8``: bits of each."""
TensorName = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Text = Annotated[str, StringConstraints(max_length=1024)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=63)]
Fraction = Annotated[float, Field(ge=0, le=1)]


_REFERENCE: Final = re.compile(r"([a-z0-9][a-z0-9._-]{0,62})(?::([1-9][0-9]{0,8}))?")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class InputSpec(_Value):
    """How a frame becomes the input tensor, batch of one.

    Attributes:
        name: Of the graph's input.
        width, height: Of the tensor, pixels.
        layout: ``NCHW`` is (1, 3, height, width), ``NHWC`` is (1, height, width, 3).
        color: Order of the channels.
        mean, std: Per channel in the order of ``color``, on the scale 0 to 255: the tensor holds
            ``(pixel - mean) / std``.
        resize: ``stretch`` fills the tensor and changes the aspect; ``letterbox`` keeps it, puts
            the picture top left and fills the rest with pixels of value 0.
        dtype: Of the tensor; ``uint8`` takes pixels as they are (mean 0, std 1).
    """

    name: TensorName
    width: Annotated[int, Field(ge=8, le=4096)]
    height: Annotated[int, Field(ge=8, le=4096)]
    layout: Literal["NCHW", "NHWC"]
    color: Literal["RGB", "BGR"]
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resize: Literal["stretch", "letterbox"] = "stretch"
    dtype: Literal["float32", "uint8"] = "float32"

    @_model_validator(mode="after")
    def _check(self) -> Self:
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        if self.dtype == "uint8" and (self.mean != (0.0,) * 3 or self.std != (1.0,) * 3):
            raise ValueError("a uint8 input has mean 0 and std 1")
        return self

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the tensor, such as (1, 3, 416, 416) for NCHW."""
        if self.layout == "NCHW":
            return (1, 3, self.height, self.width)
        return (1, self.height, self.width, 3)


Kind = Literal["detector", "classifier", "segmenter"]
"""What a model gives for a frame: boxes, one class, or a map of classes."""

KINDS: Final[Mapping[str, Kind]] = {
    "nanodet-gfl": "detector",
    "boxes-scores-classes": "detector",
    "class-scores": "classifier",
    "class-map": "segmenter",
}
"""By decoder."""


class OutputSpec(_Value):
    """How the output tensors become boxes, a class, or a map of classes.

    Attributes:
        decoder: ``nanodet-gfl``: class logits and box distributions per stride (Generalized Focal
            Loss, arXiv:2006.04388), exact in ``camsdk.artifact.decode``;
            ``boxes-scores-classes``: three tensors, already decoded;
            ``class-scores``: logits (1, classes) or (1, classes, 1, 1), one class for the frame;
            ``class-map``: logits (1, classes, rows, columns), a class for every cell.
        tensors: Names of the graph's outputs. ``nanodet-gfl``: for each stride in turn the class
            logits, then the distributions. ``boxes-scores-classes``: in that order. The others
            have one.
        strides: Pixels of the input per cell, one per scale; empty but for ``nanodet-gfl``.
        reg_max: Largest distance in strides that a distribution covers; it has reg_max + 1 bins.
        score_threshold: Boxes below are dropped. Of a detector alone, which has to give it.
        nms_iou: Of two boxes of one class that overlap more, the better stays. Of a detector
            alone, which has to give it.
        max_detections: Per frame, best first.
    """

    decoder: Literal["nanodet-gfl", "boxes-scores-classes", "class-scores", "class-map"]
    tensors: Annotated[tuple[TensorName, ...], Field(min_length=1, max_length=32)]
    strides: tuple[Annotated[int, Field(ge=1, le=256)], ...] = ()
    reg_max: Annotated[int, Field(ge=0, le=64)] = 0
    score_threshold: Fraction = 0.0
    nms_iou: Fraction = 0.0
    max_detections: Annotated[int, Field(ge=1, le=10_000)] = 300

    @property
    def kind(self) -> Kind:
        """What comes out."""
        return KINDS[self.decoder]

    @_model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.tensors)) != len(self.tensors):
            raise ValueError("a tensor is named twice")
        if self.decoder == "nanodet-gfl":
            if not self.strides or len(self.tensors) != 2 * len(self.strides):
                raise ValueError("nanodet-gfl needs two tensors per stride")
            if self.reg_max < 1:
                raise ValueError("nanodet-gfl needs reg_max")
        elif self.decoder == "boxes-scores-classes" and len(self.tensors) != 3:
            raise ValueError("boxes-scores-classes needs three tensors")
        elif self.strides:
            raise ValueError(f"{self.decoder} has no strides")
        self._check_thresholds()
        return self

    def _check_thresholds(self) -> None:
        thresholds = {"score_threshold", "nms_iou"}
        if self.kind == "detector":
            # Their default is that of models without boxes: a detector never gets it unsaid.
            for name in sorted(thresholds - self.model_fields_set):
                raise ValueError(f"{self.decoder} needs {name}")
            return
        if len(self.tensors) != 1:
            raise ValueError(f"{self.decoder} needs one tensor")
        if self.reg_max or self.score_threshold or self.nms_iou:
            raise ValueError(f"{self.decoder} has no boxes: no reg_max, score_threshold, nms_iou")


class ModelFile(_Value):
    """One member of the bundle.

    Attributes:
        path: Its name in the bundle.
        format: ``onnx`` is the model, ``packed`` too but smaller (``camsdk.artifact.packed``),
            ``npz`` a set of arrays (never with pickled objects).
        size_bytes, sha256: Of its content.
    """

    path: Name
    format: Literal["onnx", "packed", "npz"]
    size_bytes: Annotated[int, Field(ge=1, le=MAX_MEMBER_BYTES)]
    sha256: Sha256

    @property
    def is_model(self) -> bool:
        """Whether this is the model, packed or not."""
        return self.format in ("onnx", "packed")


class CanarySpec(_Value):
    """The reference inference that a device repeats before it trusts the model.

    Attributes:
        path: Member of format ``npz``. Its arrays: ``input``, shape (n, *input.shape[1:]) and the
            input's dtype; and for each output tensor ``output/NAME``, shape (n, ...), what the
            model gave where it was made.
        max_abs_error: Largest accepted difference of any output value.
        min_agreement: Least accepted share of output values within ``max_abs_error``; below 1
            where rounding differs between machines.
        max_abs_errors: Instead of ``max_abs_error``, by output tensor, where tensors hold values of
            different kinds: pixels, scores, class ids. Not written where it is empty, as artifacts
            of older versions are.
    """

    path: Name
    max_abs_error: Annotated[float, Field(ge=0)]
    min_agreement: Fraction = 1.0
    max_abs_errors: dict[TensorName, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)

    @_model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = write(self)
        if not self.max_abs_errors:
            fields.pop("max_abs_errors", None)
        return fields

    def limit(self, tensor: str) -> float:
        """Largest accepted difference of a value of this output."""
        return self.max_abs_errors.get(tensor, self.max_abs_error)


class Lineage(_Value):
    """Where a model came from, enough to make it again.

    Attributes:
        source: What it was made from, such as an asset's or a parent artifact's name.
        source_sha256: Of that source.
        tool, tool_version: What made it.
        options: Of the tool.
        calibration_sha256: Of the calibration inputs, or None when it took no data.
    """

    source: Text
    source_sha256: Sha256
    tool: Text
    tool_version: Text
    options: dict[Text, Text] = Field(default_factory=dict)
    calibration_sha256: Sha256 | None = None


class Manifest(_Value):
    """See the module.

    Attributes:
        version: From 1; a device never goes to a lower one unless a rollback is ordered.
        kind: What it gives for a frame, as ``output.decoder`` implies.
        hardware: Runtimes and machines that it was made for.
        classes: Names by class id.
        members: All files of the bundle, sorted by path, exactly one of them a model.
        metrics: Measured when it was made, by name with unit, such as ``ap50`` or ``latency_ms``.
        created_timestamp_s: Seconds since the Unix epoch.
    """

    format_version: Literal[1] = FORMAT_VERSION
    name: Name
    version: Annotated[int, Field(ge=1, lt=1_000_000_000)]
    kind: Kind = "detector"
    hardware: Annotated[tuple[Hardware, ...], Field(min_length=1, max_length=16)]
    precision: Precision
    classes: Annotated[tuple[Label, ...], Field(min_length=1, max_length=4096)]
    input: InputSpec
    output: OutputSpec
    members: Annotated[tuple[ModelFile, ...], Field(min_length=2, max_length=MAX_MEMBERS)]
    canary: CanarySpec
    metrics: dict[Label, float] = Field(default_factory=dict)
    lineage: Lineage
    created_timestamp_s: Annotated[float, Field(ge=0)]

    @_model_validator(mode="after")
    def _check(self) -> Self:
        paths = [member.path for member in self.members]
        if paths != sorted(set(paths)):
            raise ValueError("members must be sorted by path, each once")
        if sum(member.is_model for member in self.members) != 1:
            raise ValueError("exactly one member must be the model")
        if not any(m.path == self.canary.path and m.format == "npz" for m in self.members):
            raise ValueError(f"the canary {self.canary.path!r} is not an npz member")
        if self.kind != self.output.kind:
            raise ValueError(f"a {self.kind} with the outputs of a {self.output.kind}")
        return self

    @property
    def reference(self) -> str:
        """``name:version``."""
        return f"{self.name}:{self.version}"

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of folders that label the pictures in them: a classifier's classes."""
        return self.classes if self.kind == "classifier" else ()

    @property
    def model(self) -> ModelFile:
        """The member that is the model."""
        return next(member for member in self.members if member.is_model)

    def to_bytes(self) -> bytes:
        """The one byte form: UTF-8 JSON, keys sorted, no spaces, shortest floats."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Manifest":
        """Read what ``to_bytes`` wrote.

        Raises:
            DataCorrupted: Too long, not JSON, a field is wrong, or not the canonical spelling.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise DataCorrupted(f"the manifest has {len(data)} bytes, over {MAX_MANIFEST_BYTES}")
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            raise DataCorrupted(f"the manifest is not valid: {describe(error)}") from error
        if manifest.to_bytes() != data:
            raise DataCorrupted("the manifest is not in its canonical form")
        return manifest


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON with sorted keys, without spaces, floats as short as they round-trip."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


_PLAIN: Final = {
    "Value error, ": "",
    f"String should match pattern '{NAME_PATTERN}'": (
        "takes lower-case letters, digits, '.', '_' and '-', at most 63, no sign at the start"
    ),
    "Extra inputs are not permitted": "there is no such field",
    "Field required": "is missing",
    "Unable to extract tag using discriminator": "is missing the field",
    "Input tag ": "",
    "found using": "of",
    "does not match any of the expected tags": "is none of",
    "String should match pattern": "has to be spelled as in the pattern",
    "Input should": "has to",
    "String should": "has to",
    "Tuple should": "has to",
    "List should": "has to",
    "after validation, not": "and has",
}
"""What pydantic says, and how it is said to a person."""


def describe(error: ValidationError) -> str:
    """The first problem of a validation as one phrase, with the field that it is about."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    what = str(first["msg"])
    for technical, plain in _PLAIN.items():
        what = what.replace(technical, plain)
    return f"{where}: {what}" if where else what


def parse_reference(text: str) -> tuple[str, int | None]:
    """``name`` or ``name:version`` to its parts.

    Raises:
        InvalidInput: Neither of the two.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise InvalidInput(
            f"{text!r} is not a model's name", "give NAME or NAME:VERSION, such as nanodet-g:3"
        )
    name, version = match.groups()
    return name, int(version) if version else None
