"""What ``camctl model import`` does with a file of any framework."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from camsdk.cli.usage import WrongUsage
from camsdk.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    import onnx

    from camsdk.artifact.manifest import InputSpec, OutputSpec
    from camsdk.compress.packaging import Draft
    from camsdk.vision.yaml_nodes import Field

_MAX_CLASSES_BYTES: Final = 1 << 20
"""Of a file with one name a line; a description is a YAML file, hence smaller."""
_MAX_CLASSES: Final = 4096
"""As many as a manifest may have."""
TENSORFLOW_SSD: Final = "tensorflow-ssd"
"""Decoder of the command line alone: two outputs of TensorFlow's detection interface."""

_SECTIONS: Final = ("input", "output", "classes")


@dataclass(frozen=True)
class Wishes:
    """What the command line says about the model's input and output.

    Attributes:
        description: YAML file with the sections ``input``, ``output`` (fields of the manifest) and
            ``classes``; None without.
        classes: File with one name a line; None without.
        input, output: Fields that were given one by one; they win over the file's.
    """

    description: Path | None = None
    classes: Path | None = None
    input: Mapping[str, Any] = field(default_factory=dict)
    output: Mapping[str, Any] = field(default_factory=dict)


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``NAME:1x300x300x3`` to shapes by name; a name may hold colons itself.

    Raises:
        WrongUsage: Another form.
    """
    shapes = {}
    for text in texts:
        name, colon, lengths = text.rpartition(":")
        parts = lengths.split("x")
        if (
            not colon
            or not name
            or not all(part.isdecimal() and 0 < len(part) < 8 for part in parts)
        ):
            raise WrongUsage(
                f"{text!r} is no input shape", "give NAME:SHAPE, such as image:1x300x300x3"
            )
        shapes[name] = tuple(int(part) for part in parts)
    return shapes


def parse_numbers(text: str, option: str) -> tuple[float, float, float]:
    """``a,b,c`` or one number for all channels.

    Raises:
        WrongUsage: Another form.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise WrongUsage(f"{option} {text!r} is not one number or three", "such as 127.5")
    return numbers[0], numbers[1], numbers[2]


def make_import_draft(
    model: "onnx.ModelProto",
    wishes: Wishes,
    *,
    source: Path,
    weights: Path | None = None,
    framework: str,
    name: str,
    version: int,
) -> "Draft":
    """A float artifact of an imported detector, classifier or segmentation network.

    Args:
        model: As imported.
        wishes: What is said of it.
        source, weights, framework: What it was read from, for the lineage.
        name, version: Of the artifact.

    Raises:
        NotFound: A file cannot be read.
        InvalidInput: The description does not fit the model.
        UnsupportedModel, RuntimeFailure: As ``packaging.make_draft``.
        DeadlineExceeded, ResourceExhausted: It ran into a limit, see ``trial.try_model``.
    """
    from pydantic import ValidationError

    from camsdk.artifact.manifest import Lineage, describe
    from camsdk.compress.importers.source_files import digest
    from camsdk.compress.importers.trial import try_model
    from camsdk.compress.packaging import TOOL_VERSION, Description, canary_input, make_draft

    lineage = Lineage(
        source=source.name,
        source_sha256=digest(source, framework, weights),
        tool=f"camsdk.compress.importers ({framework})",
        tool_version=TOOL_VERSION,
    )
    sections = _read_sections(wishes)
    classes = tuple(sections["classes"])
    try:
        model, spec, output = _specified(model, sections, len(classes))
        tried = try_model(model, canary_input(spec), output.tensors, output.kind, len(classes))
        output = output.model_copy(update={"tensors": tuple(tried.outputs)})
        described = Description(name, version, "fp32", classes, spec, output, lineage)
        return make_draft(tried.model, described, outputs=tried.outputs)
    except ValidationError as error:
        raise InvalidInput(
            f"the model's description is not valid: {describe(error)}",
            "see --description, --decoder, --classes, --mean, --std, --color and --layout",
        ) from error


def _specified(
    model: "onnx.ModelProto", sections: Mapping[str, Any], class_count: int
) -> "tuple[onnx.ModelProto, InputSpec, OutputSpec]":
    """The model as its decoder takes it, but for logits; and the manifest's input and output."""
    from camsdk.artifact.manifest import KINDS, InputSpec, OutputSpec
    from camsdk.compress.importers.picture_input import as_colour

    wanted = dict(sections["output"])
    if wanted.get("decoder") == TENSORFLOW_SSD:
        from camsdk.compress.importers.ssd_boxes import as_detector

        model = as_detector(model, class_count)
        wanted["decoder"] = "boxes-scores-classes"
    if KINDS.get(str(wanted.get("decoder")), "detector") == "detector":
        wanted = {"score_threshold": 0.3, "nms_iou": 0.6, **wanted}
    model = as_colour(model)
    outputs = [info.name for info in model.graph.output]
    spec = InputSpec(**_tupled({**_guess_input(model), **sections["input"]}))
    output = OutputSpec(**_tupled({"tensors": outputs, **wanted}))
    missing = set(output.tensors) - set(outputs)
    if missing:
        raise InvalidInput(f"the model has no output {sorted(missing)}", f"it has {outputs}")
    _check_shape(model, spec.shape)
    return model, spec, output


def _tupled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """YAML's lists as the manifest has them."""
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }


def _check_shape(model: "onnx.ModelProto", shape: tuple[int, ...]) -> None:
    (given,) = _input_shapes(model).values()
    if given != shape:
        raise InvalidInput(
            f"the model takes a tensor of shape {given}, the description says {shape}",
            "give width, height and --layout as the model has them",
        )


def _input_shapes(model: "onnx.ModelProto") -> dict[str, tuple[int, ...]]:
    shapes = {
        info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        for info in model.graph.input
    }
    if len(shapes) != 1:
        raise InvalidInput(
            f"an artifact takes one picture, the model has the inputs {sorted(shapes)}",
            "write it as plain ONNX with -o model.onnx",
        )
    return shapes


def _guess_input(model: "onnx.ModelProto") -> dict[str, Any]:
    """Name and size from the model itself; the layout is where the three channels are."""
    ((name, shape),) = _input_shapes(model).items()
    if len(shape) != 4 or shape[0] != 1 or 3 not in (shape[1], shape[3]):
        raise InvalidInput(
            f"input {name!r} of shape {shape} is no single picture of one or three channels",
            "write it as plain ONNX with -o model.onnx",
        )
    layout = "NCHW" if shape[1] == 3 else "NHWC"
    height, width = shape[2:] if layout == "NCHW" else shape[1:3]
    return {"name": name, "width": width, "height": height, "layout": layout, "color": "RGB"}


def _read_sections(wishes: Wishes) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if wishes.description is not None:
        document = _read_description(wishes.description)
    for name in ("input", "output"):
        document[name] = {**document.get(name, {}), **getattr(wishes, name)}
    if wishes.classes is not None:
        lines = _read_text(wishes.classes, _MAX_CLASSES_BYTES).splitlines()
        document["classes"] = [line.strip() for line in lines if line.strip()]
    if not document.get("classes"):
        raise InvalidInput(
            "an artifact needs the names of its classes", "give --classes FILE, one name a line"
        )
    return document


def _read_description(path: Path) -> dict[str, Any]:
    from camsdk.vision.yaml_nodes import MAX_TEXT_BYTES, read_document

    document: dict[str, Any] = {}
    text = _read_text(path, MAX_TEXT_BYTES)
    try:
        sections = read_document(text).mapping(optional=_SECTIONS)
        for name, section in sections.items():
            if name == "classes":
                document[name] = [_class_name(item) for item in section.items(at_most=_MAX_CLASSES)]
            else:
                document[name] = {key: item.value() for key, item in section.entries().items()}
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error.message}", error.hint) from error
    return document


def _class_name(item: "Field") -> str:
    try:
        return item.text()
    except InvalidInput as error:
        raise item.error(
            "is no text, and a class needs a name",
            'put names such as "yes", "no", "on" and "1" in quotes: YAML reads them otherwise',
        ) from error


def _read_text(path: Path, most_bytes: int) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > most_bytes:
        raise InvalidInput(f"{path} is larger than {most_bytes // 1024} KiB")
    try:
        return data.decode("utf-8-sig")  # editors of Windows write the mark first
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text") from error
