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
            help="Of the weights in an MNN file: 2 to 8, or 32 for float. Default: those of most "
            "of the artifact's codes, or of all where that changes the outputs by more than 10%; "
            "8 for a float artifact.",
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
    content, figures, warning = (draft.model, {}, "") if engine == "onnx" else _as_mnn(draft, bits)
    write_out(path, content)
    facts = {"path": str(path), "model": draft.manifest.reference, "bytes": len(content), **figures}
    output = Output(is_json=is_json)
    tell(output, facts)
    if warning:
        output.note(warning)


def _as_mnn(draft: "Draft", bits: int | None) -> tuple[bytes, dict[str, Any], str]:
    """The file, figures by name, and a warning where it is far from the model."""
    demand("onnx", "onnxslim", "MNN")
    import numpy as np
    import onnx

    from camsdk.compress.mnn import (
        DEFAULT_BITS,
        NEAR_ERROR,
        common_bits,
        export_near,
        from_quantized,
        relative_error,
        suited,
    )
    from camsdk.compress.report.collect import few_inputs
    from camsdk.compress.sessions import Session

    stored = onnx.load_from_string(draft.model)
    model, coded_bits = from_quantized(stored)
    every = coded_bits or DEFAULT_BITS
    wanted = (bits,) if bits else sorted({common_bits(stored) or every, every})
    choices = [suited(coded_bits, None if kept == _FLOAT_BITS else kept) for kept in wanted]
    inputs = few_inputs(draft, None, ())[:2]
    made, options = export_near(model, inputs, choices)
    own, unrounded = Session(draft.model), Session(model.SerializeToString())
    rounding = max(
        relative_error(np.asarray(value), np.asarray(unrounded.infer(tensor)[name]))
        for tensor in inputs
        for name, value in own.infer(tensor).items()
    )
    kept = options.weight_bits or _FLOAT_BITS
    warning = (
        f"warning: in {kept} bits the outputs differ from the model's by "
        f"{made.relative_error:.0%}: give more with --bits"
    )
    figures = {
        "weight_bits": kept,
        "relative_error": made.relative_error,
        "rounding_of_activations": rounding,
    }
    return made.content, figures, warning if made.relative_error > NEAR_ERROR else ""
