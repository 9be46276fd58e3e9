"""``camctl model export``: an artifact's model as a file for another engine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from camsdk.cli.drafts import DraftArgument, read_draft, tell, write_out
from camsdk.cli.extras import demand
from camsdk.cli.output import Output
from camsdk.cli.profile import JsonOption

if TYPE_CHECKING:
    from camsdk.compress.packaging import Draft

_FLOAT_BITS: Final = 32


def register(app: typer.Typer) -> None:
    """Adds the command to ``camctl model``."""
    app.command("export")(export)


def export(
    source: DraftArgument,
    engine: Annotated[
        Literal["mnn", "onnx"],
        typer.Option(
            "--to",
            help="mnn: a file of MNN's with weights of few bits, needs the extra mnn. "
            "onnx: the model as the agents run it.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="The file to write. Default: NAME-VERSION.mnn or .onnx, in this folder.",
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            "--bits",
            min=2,
            help="Of the weights in an MNN file: 2 to 8, or 32 for float. Default: those of the "
            "artifact's codes; 8 for a float artifact.",
        ),
    ] = None,
    is_json: JsonOption = False,
) -> None:
    """Writes an artifact's model as a file for another engine; an MNN file has been run before.

    MNN keeps weights in few bits and computes in float; activations are not quantized there.
    """
    if bits is not None and (engine != "mnn" or 8 < bits != _FLOAT_BITS):
        raise typer.BadParameter("--bits goes with --to mnn and is 2 to 8, or 32 for float")
    draft = read_draft(source)
    path = out or Path(f"{draft.manifest.name}-{draft.manifest.version}.{engine}")
    content, figures = (draft.model, {}) if engine == "onnx" else _as_mnn(draft, bits)
    write_out(path, content)
    facts = {"path": str(path), "model": draft.manifest.reference, "bytes": len(content), **figures}
    tell(Output(is_json=is_json), facts)


def _as_mnn(draft: "Draft", bits: int | None) -> tuple[bytes, dict[str, Any]]:
    demand("onnx", "onnxslim", "MNN")
    import numpy as np
    import onnx

    from camsdk.compress.mnn import (
        DEFAULT_BITS,
        export_mnn,
        from_quantized,
        relative_error,
        suited,
    )
    from camsdk.compress.report.collect import few_inputs
    from camsdk.compress.sessions import Session

    model, coded_bits = from_quantized(onnx.load_from_string(draft.model))
    kept = bits or coded_bits or DEFAULT_BITS
    options = suited(coded_bits, None if kept == _FLOAT_BITS else kept)
    inputs = few_inputs(draft, None, ())[:2]
    made = export_mnn(model, inputs, options)
    own, unrounded = Session(draft.model), Session(model.SerializeToString())
    rounding = max(
        relative_error(np.asarray(value), np.asarray(unrounded.infer(tensor)[name]))
        for tensor in inputs
        for name, value in own.infer(tensor).items()
    )
    return made.content, {
        "weight_bits": kept,
        "relative_error": made.relative_error,
        "rounding_of_activations": rounding,
    }
