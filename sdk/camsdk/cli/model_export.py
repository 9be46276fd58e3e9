"""``camctl model export``: an artifact's model as a file for another engine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from camsdk.cli.drafts import DraftArgument, read_draft, tell, write_out
from camsdk.cli.extras import demand
from camsdk.cli.output import Output
from camsdk.cli.profile import JsonOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from camsdk.compress.mnn import MnnExport
    from camsdk.compress.packaging import Draft
    from camsdk.compress.sessions import Array

_FLOAT_BITS: Final = 32
BitsOption = Annotated[
    int | None,
    typer.Option(
        "--bits",
        min=2,
        help="Of all weights in an MNN file: 2 to 8, or 32 for float. Default: each layer's "
        "as the artifact's codes have them; 8 for a float artifact.",
    ),
]


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
    bits: BitsOption = None,
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
    """The file, figures by name, and warnings."""
    demand("onnx", "onnxslim", "MNN")
    import onnx

    from camsdk.compress.mnn import (
        DEFAULT_BITS,
        export_mnn,
        from_quantized,
        layer_bits,
        suited,
    )
    from camsdk.compress.report.collect import few_inputs

    stored = onnx.load_from_string(draft.model)
    model, coded_bits = from_quantized(stored)
    every = bits or DEFAULT_BITS  # what has no codes is not to suffer from those of others
    options = suited(
        coded_bits,
        None if every == _FLOAT_BITS else every,
        None if bits else layer_bits(stored),
    )
    inputs = few_inputs(draft, None, ())[:2]
    made = export_mnn(model, inputs, options)
    figures = {
        "weight_bits": made.usual_bits or _FLOAT_BITS,
        "most_bits_of_a_layer": made.most_bits or _FLOAT_BITS,
        "relative_error": made.relative_error,
        "rounding_of_activations": _rounding(draft, model, inputs),
    }
    return made.content, figures, _warning(made)


def _warning(made: "MnnExport") -> str:
    """Of layers without the bits of their codes and of outputs that are far off; or nothing."""
    from camsdk.compress.mnn import NEAR_ERROR

    said = []
    if made.missed:
        said.append(
            "warning: MNN does not list these layers, so they do not have the bits of their codes: "
            + ", ".join(made.missed)
        )
    if made.relative_error > NEAR_ERROR:
        said.append(
            f"warning: in {made.usual_bits} bits the outputs differ from the model's by "
            f"{made.relative_error:.0%}: give more with --bits"
        )
    return "\n".join(said)


def _rounding(draft: "Draft", model: "onnx.ModelProto", inputs: "Sequence[Array]") -> float:
    """How far the model without rounded activations is from the artifact's, as MNN's error is."""
    import numpy as np

    from camsdk.compress.mnn import relative_error
    from camsdk.compress.sessions import Session

    own, unrounded = Session(draft.model), Session(model.SerializeToString())
    pairs = [(own.infer(tensor), unrounded.infer(tensor)) for tensor in inputs]
    return max(
        relative_error(np.asarray(value), np.asarray(plain[name]))
        for rounded, plain in pairs
        for name, value in rounded.items()
    )
