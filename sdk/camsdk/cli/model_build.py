"""``camctl model import``: from a model of any framework to a float artifact."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from camsdk.cli.drafts import (
    NameOption,
    OutOption,
    check_suffix,
    check_writable,
    report,
    tell,
    write_draft,
    write_out,
)
from camsdk.cli.model_import import Wishes, make_import_draft, parse_numbers, parse_shapes
from camsdk.cli.output import Output
from camsdk.cli.profile import JsonOption
from camsdk.cli.usage import WrongUsage

if TYPE_CHECKING:
    import onnx

    from camsdk.compress.importers.detect import Framework

KNOWN: Final = "nanodet-g"
"""The published model that has no file to be named."""

Format = Literal["auto", "onnx", "pytorch", "tensorflow", "tflite", "tfjs", "caffe", "mxnet"]

Decoder = Literal[
    "nanodet-gfl", "boxes-scores-classes", "class-scores", "class-map", "tensorflow-ssd"
]

EXAMPLES: Final = "\n\n".join(
    (
        "Formats, one example each (with -o FILE.onnx instead of an artifact's options):",
        "ONNX: camctl model import net.onnx -o net-float.onnx",
        "PyTorch, of torch.export.save: camctl model import net.pt2 -o net.onnx",
        "TensorFlow, frozen graph: camctl model import net.pb --output scores -o net.onnx",
        "TensorFlow, SavedModel folder: camctl model import saved_model/ -o net.onnx",
        "TensorFlow Lite: camctl model import net.tflite -o net.onnx",
        "TensorFlow.js, weights beside it: camctl model import model.json -o net.onnx",
        "Caffe: camctl model import net.prototxt --weights net.caffemodel -o net.onnx",
        "MXNet: camctl model import net-symbol.json --weights net-0000.params "
        "--input data:1x3x224x224 -o net.onnx",
        "A detector as an artifact: camctl model import net.onnx --decoder boxes-scores-classes "
        "--classes names.txt -o net.cam",
        "A classifier: camctl model import net.onnx --decoder class-scores --classes names.txt "
        "--mean 127 --std 128 -o net.cam",
        "SavedModel and TensorFlow Lite need TensorFlow, which is installed apart once (1.6 GB).",
    )
)

ImportVersionOption = Annotated[
    int,
    typer.Option("--version", min=1, help="Of the artifact; the registry takes each only once."),
]


def register(app: typer.Typer) -> None:
    """Adds the command to ``camctl model``."""
    app.command("import", epilog=EXAMPLES)(import_model)


def import_model(
    model: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A model's file or folder, or the published model nanodet-g. Of Caffe the "
            "prototxt, of MXNet the symbol file.",
        ),
    ] = KNOWN,
    framework: Annotated[
        Format, typer.Option("--format", help="Of the file; auto looks at its content.")
    ] = "auto",
    graph: Annotated[
        Path | None,
        typer.Option("--graph", exists=True, dir_okay=False, help="JSON of nanodet-g."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            exists=True,
            dir_okay=False,
            help="The second file: of Caffe, MXNet and nanodet-g; of TensorFlow.js if it does not "
            "lie beside the first.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--input-size", metavar="WxH", help="Of the picture; of nanodet-g 416x320 if not given."
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME:SHAPE",
            help="Shape of an input, such as image:1x300x300x3. May be a tensor inside of a "
            "TensorFlow graph; may be repeated.",
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            metavar="NAME",
            help="A wanted tensor, of TensorFlow, TensorFlow.js and Caffe; repeatable.",
        ),
    ] = None,
    description: Annotated[
        Path | None,
        typer.Option(
            "--description",
            exists=True,
            dir_okay=False,
            help="YAML with the manifest's sections input, output and classes.",
        ),
    ] = None,
    decoder: Annotated[
        Decoder | None,
        typer.Option(
            "--decoder",
            help="What outputs mean. Boxes: nanodet-gfl, boxes-scores-classes, or tensorflow-ssd "
            "(raw boxes and scores of TensorFlow's detection models). One class for the picture: "
            "class-scores. A class for every cell: class-map.",
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option("--classes", exists=True, dir_okay=False, help="One class name a line."),
    ] = None,
    mean: Annotated[
        str | None, typer.Option("--mean", metavar="A[,B,C]", help="Taken from pixels (0 to 255).")
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", metavar="A[,B,C]", help="What they are divided by.")
    ] = None,
    color: Annotated[
        Literal["RGB", "BGR"] | None, typer.Option("--color", help="Order of the channels.")
    ] = None,
    layout: Annotated[
        Literal["NCHW", "NHWC"] | None, typer.Option("--layout", help="Default: the model's own.")
    ] = None,
    name: NameOption = None,
    version: ImportVersionOption = 1,
    out: OutOption = None,
    is_json: JsonOption = False,
) -> None:
    """Imports a model of another framework as a float artifact, or as ONNX (-o FILE.onnx)."""
    output = Output(is_json=is_json)
    wishes = _wishes(description, classes, size, decoder, mean, std, color, layout)
    if out is not None:
        check_suffix(out, ".cam", ".onnx")
        check_writable(out, "--out")
    if model == KNOWN:
        _check_known(framework, inputs, outputs, wishes)
        _import_known(graph, weights, size or "416x320", name, version, out, output)
        return
    path = Path(model)
    if not path.exists():
        raise typer.BadParameter(f"{model!r} is neither a file or folder nor {KNOWN}")
    if graph is not None:
        raise WrongUsage(f"--graph is of {KNOWN} alone", "give the model's file as PATH")
    kind = _framework(path, framework)
    is_plain = out is not None and out.suffix == ".onnx"
    if not is_plain and decoder is None and description is None:
        raise WrongUsage(
            "an artifact needs to know what the model's outputs mean",
            "give --decoder or --description; or write plain ONNX with -o model.onnx",
        )
    imported = _import_any(path, kind, weights, inputs, outputs, output)
    if is_plain and out is not None:
        _write_onnx(imported, out, output)
        return
    draft = make_import_draft(
        imported,
        wishes,
        source=path,
        weights=weights,
        framework=kind,
        name=name or f"{_plain_name(path)}-fp32",
        version=version,
    )
    report(output, draft, write_draft(draft, out), {})


def _check_known(
    framework: Format, inputs: list[str] | None, outputs: list[str] | None, wishes: Wishes
) -> None:
    """The published model describes itself; nothing that is said of it has an effect."""
    is_described = wishes.description or wishes.classes or wishes.output
    described = is_described or set(wishes.input) - {"width", "height"}
    if framework != "auto" or inputs or outputs or described:
        raise WrongUsage(
            f"{KNOWN} brings its own description",
            "name the model's file before these options, or give --input-size alone",
        )


def _import_known(
    graph: Path | None,
    weights: Path | None,
    size: str,
    name: str | None,
    version: int,
    out: Path | None,
    output: Output,
) -> None:
    from camsdk import assets
    from camsdk.compress import nanodet

    draft = nanodet.import_float(
        graph or assets.pull("nanodet.json"),
        weights or assets.pull("nanodet.bin"),
        size=_parse_size(size),
        name=name or f"{KNOWN}-fp32",
        version=version,
    )
    if out is not None and out.suffix == ".onnx":
        import onnx

        _write_onnx(onnx.ModelProto.FromString(draft.model), out, output)
        return
    report(output, draft, write_draft(draft, out), {})


def _framework(path: Path, framework: Format) -> "Framework":
    """What is said of the file, or what it looks like: before anything else is asked for."""
    from camsdk.compress.importers import detect

    kind = detect.detect(path) if framework == "auto" else framework
    return "saved-model" if kind == "tensorflow" and path.is_dir() else kind


def _import_any(
    path: Path,
    kind: "Framework",
    weights: Path | None,
    inputs: list[str] | None,
    outputs: list[str] | None,
    output: Output,
) -> "onnx.ModelProto":
    from camsdk.compress.importers import detect

    options = detect.ImportOptions(weights, parse_shapes(inputs or ()), tuple(outputs or ()))
    tell = None if output.is_json else output.note
    return detect.import_model(path, kind, options, on_progress=tell)


def _wishes(
    description: Path | None,
    classes: Path | None,
    size: str | None,
    decoder: Decoder | None,
    mean: str | None,
    std: str | None,
    color: str | None,
    layout: str | None,
) -> Wishes:
    given: dict[str, Any] = {"color": color, "layout": layout}
    given["mean"] = None if mean is None else parse_numbers(mean, "--mean")
    given["std"] = None if std is None else parse_numbers(std, "--std")
    if size is not None:
        given["width"], given["height"] = _parse_size(size)
    return Wishes(
        description,
        classes,
        {key: value for key, value in given.items() if value is not None},
        {} if decoder is None else {"decoder": decoder},
    )


def _write_onnx(model: "onnx.ModelProto", out: Path, output: Output) -> None:
    content = model.SerializeToString(deterministic=True)
    write_out(out, content)
    facts: dict[str, Any] = {"path": str(out), "bytes": len(content)}
    facts["inputs"] = [info.name for info in model.graph.input]
    facts["outputs"] = [info.name for info in model.graph.output]
    tell(output, facts)


def _plain_name(path: Path) -> str:
    """A name that an artifact may have, from the file's."""
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "model"


def _parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9][0-9]{1,3})x([1-9][0-9]{1,3})", text)
    if match is None:
        raise WrongUsage(f"{text!r} is no size", "give WIDTHxHEIGHT, such as 416x320")
    return int(match[1]), int(match[2])
