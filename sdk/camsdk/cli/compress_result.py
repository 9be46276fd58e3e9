"""What ``camctl model compress|evaluate`` say when they are done."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from camsdk.cli.compress_cache import cache_folder
from camsdk.cli.compress_wishes import Wishes
from camsdk.cli.output import Output
from camsdk.errors import InvalidInput

if TYPE_CHECKING:
    from camsdk.compress.compressing import Compressed
    from camsdk.compress.figures import Agreement
    from camsdk.compress.packaging import Draft

_FEW: Final = 20
"""Boxes or frames; fewer hardly tell one model from another."""
_HARDLY: Final = 0.5
"""Of agreement: below, most of what the float model finds is lost or misplaced."""


def write_report(made: "Compressed", page: Path) -> None:
    """As a page, and beside it as JSON.

    Raises:
        InvalidInput: They cannot be written.
    """
    from camsdk.compress.report.page import to_html

    try:
        page.write_text(to_html(made.facts), encoding="utf-8")
        page.with_suffix(".json").write_text(made.facts.to_json(), encoding="utf-8")
    except OSError as error:
        raise InvalidInput(
            f"{page} cannot be written: {error.strerror}", "name another place with --report"
        ) from error


def facts_of(made: "Compressed") -> dict[str, Any]:
    """Figures of a compression, by name: bytes, seconds, agreement, CPU milliseconds."""
    facts, agreement = made.facts, made.agreement
    told: dict[str, Any] = {
        "float_bytes": facts.sizes_bytes["float model"],
        "packed_bytes": facts.sizes_bytes["model packed"],
        "artifact_bytes": facts.sizes_bytes["artifact, unsigned"],
        "seconds": sum(facts.duration_s.values()),
        "peak_rss_mib": facts.peak_rss_bytes / 2**20,
    }
    for name, spent_ms in facts.predicted_ms.items():
        told["layers_ms" if name.endswith(", compressed") else "float_layers_ms"] = spent_ms
    if agreement is not None:
        told |= {
            **agreement.values,
            **agreement.counts,
            "float_cpu_ms": agreement.reference_ms,
            "cpu_ms": agreement.candidate_ms,
            "speedup": agreement.speedup,
        }
    for way, of in made.choice.agreements.items():
        told |= {f"choice_{figure.name}_by_{way}": figure.value for figure in of.measured}
    return told


def note_outcome(output: Output, made: "Compressed", wishes: Wishes) -> None:
    """What a person should know beside the figures."""
    if times := made.draft.manifest.lineage.options.get("times"):
        folder = wishes.work or cache_folder("profiles")
        kept = f"kept in {folder}: delete them there to measure anew"
        place = kept if wishes.profile is None else f"in {wishes.profile}"
        output.note(f"times of layers: {times}, {place}")
    if resumed := made.facts.resumed:
        output.note(f"seconds are without what an earlier attempt had done of {', '.join(resumed)}")
    note_doubts(output, made.agreement)
    if wishes.untrained_because:
        output.note(f"rounded without a training: {wishes.untrained_because}")
    if made.choice.reason:
        output.note(f"kept the result of {made.choice.kept}: {made.choice.reason}")
    agreement = made.agreement
    if agreement is not None and agreement.main.value < _HARDLY:
        output.note(
            f"warning: this artifact hardly agrees with the float model, {agreement.main.name} is "
            f"{agreement.main.value:.2f} of 1; try more --bits, less --sparsity or more --epochs"
        )


def note_doubts(output: Output, agreement: "Agreement | None") -> None:
    """What figures alone do not say: next to nothing to agree with, a reference that is wrong."""
    if agreement is None:
        return
    if not agreement.main.is_measured:
        output.note("the reference found nothing on these frames, so there is no agreement to tell")
        return
    counts = agreement.counts
    what = next(of for of in ("boxes", "cells", "frames") if of in counts)
    if counts[what] < _FEW:
        output.note(f"caution: {counts[what]} {what} alone were compared, which says little")
    for figure in agreement.measured:
        if figure.is_labelled and figure.reference < _HARDLY:
            output.note(
                f"warning: the reference itself has an {figure.name} of {figure.reference:.2f} on "
                "labelled pictures: was it imported with the --mean, --std and --channels that it "
                "was trained with, and are the --classes in its order?"
            )


def figures_of(
    agreement: "Agreement", drafts: Mapping[str, "Draft"], paths: Mapping[str, Path]
) -> dict[str, Any]:
    """Figures of an evaluation, by name.

    Args:
        drafts: The ``reference`` and the ``candidate``.
        paths: Their files.
    """
    told: dict[str, Any] = dict(agreement.values)
    for side, draft in drafts.items():
        told |= {
            side: draft.manifest.reference,
            f"{side}_path": str(paths[side]),
            f"{side}_model_bytes": len(draft.members[draft.manifest.model.path]),
            f"{side}_file_bytes": paths[side].stat().st_size,
        }
    return told | {
        "reference_cpu_ms": agreement.reference_ms,
        "candidate_cpu_ms": agreement.candidate_ms,
        "speedup": agreement.speedup,
        **agreement.counts,
    }
