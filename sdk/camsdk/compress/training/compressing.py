"""A float model becomes codes and ranges by learning to say what it said in float.

No labels are needed: the float network is the teacher (``tasks.imitation``). A training that was
killed goes on from its checkpoint, which is found by everything that the result follows from, so
that no other training ever takes it up.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Final, TypeVar

import onnx
import torch
from torch import Tensor

from camsdk.artifact.manifest import Manifest
from camsdk.compress.coded_model import CodedModel
from camsdk.compress.graph.coded_weights import with_values
from camsdk.compress.graph.layers import list_layers
from camsdk.compress.options import CompressOptions, Filter, PruneOptions
from camsdk.compress.ptq.edges import with_precise_edges
from camsdk.compress.ptq.folding import prepare
from camsdk.compress.sparsity import suits
from camsdk.compress.training.admm import AdmmMethod
from camsdk.compress.training.checkpoint import code_digest
from camsdk.compress.training.folding import fold
from camsdk.compress.training.method import Method
from camsdk.compress.training.optimizers import Optimizer
from camsdk.compress.training.pruning import PruneMethod
from camsdk.compress.training.tasks import Task, imitation
from camsdk.compress.training.trainer import Progress, Trained, train
from camsdk.compress.training.twin import Twin, to_torch
from camsdk.errors import InvalidInput
from camsdk.vision.frames import Frame

SUFFIX: Final = ".camtrain"

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class School:
    """What every training of one run shares.

    Attributes:
        teacher: The float model, ONNX.
        manifest: Of the float model.
        frames: To train on.
        work: Folder of the checkpoints, or None to keep none.
        on_progress: Called after every step.
        on_checkpoint: Called with the place of a checkpoint, before there is one.
    """

    teacher: onnx.ModelProto
    manifest: Manifest
    frames: Iterable[Frame]
    work: Path | None
    on_progress: Callable[[Progress], None] | None = None
    on_checkpoint: Callable[[Path], None] | None = None


def learn_codes(
    school: School,
    rounded: CodedModel,
    options: CompressOptions,
    layer_sparsity: Mapping[str, float] | None = None,
) -> CodedModel:
    """Train a model that has been rounded, and pruned if asked to, towards what it was in float.

    Args:
        rounded: What rounding after training made of the teacher, or of what was left of it. The
            training goes on from there, which is many epochs ahead of the nearest codes, and
            weights that are gone stay away: of a detector that begins as its teacher, gradients
            say nothing about weights, and pruning it step by step from there lost everything.
        options: With ``quantize`` and ``train``; ``prune`` of anything but filters. Weights are
            gone where they were pruned before: what is zero then stays zero.
        layer_sparsity: By layer name; in those that are missing nothing was pruned.

    Raises:
        InvalidInput: As ``trainer.train``; a layer that does not exist; no head to imitate.
        UnsupportedModel: An operator that cannot be trained.
        DataCorrupted: The checkpoint is damaged.
    """
    assert options.quantize is not None
    # As in the rounding before: the heads of a detector are all last layers.
    options = replace(options, quantize=with_precise_edges(rounded.model, options.quantize))
    assert options.quantize is not None
    twin = to_torch(_with_codes(rounded, options))
    masks = None if options.prune is None else _masks(rounded, options.prune, layer_sparsity)
    quantize = replace(options.quantize, layers=_renamed(options.quantize.layers, twin))
    method = AdmmMethod(quantize, None if masks is None else _renamed(masks, twin))
    # The student has no BatchNorm: what its layers give compares with such a teacher's.
    teacher = prepare(school.teacher).model
    task, done = _trained(school, teacher, twin, method, options, layer_sparsity, "adam")
    coded = fold(twin, method.coded_weights(), method.activation_ranges(), _inputs(task))
    return CodedModel(
        coded.model, coded.weights, coded.activations, {}, done.history, rounded.model
    )


def remove_filters(school: School, model: onnx.ModelProto, options: CompressOptions) -> CodedModel:
    """Prune whole filters in float while the network trains; what comes out is smaller.

    Args:
        model: Float, to start from.
        options: With ``prune`` and ``train``.

    Returns:
        A model without codes.

    Raises:
        As ``learn_codes``; InvalidInput also where so many filters cannot be removed.
    """
    assert options.prune is not None
    assert isinstance(options.prune.granularity, Filter)
    twin = to_torch(model)
    method = PruneMethod(options.prune)
    options = replace(options, quantize=None)
    _, done = _trained(school, school.teacher, twin, method, options, None, "sgd")
    return CodedModel(twin.write_back(), {}, {}, {}, done.history)


def _trained(
    school: School,
    teacher_model: onnx.ModelProto,
    twin: Twin,
    method: Method,
    options: CompressOptions,
    layer_sparsity: Mapping[str, float] | None,
    optimizer: Optimizer,
) -> tuple[Task, Trained]:
    assert options.train is not None
    teacher, frames = to_torch(teacher_model).module, iter(school.frames)
    # Agreement is measured on the emitted file, so one frame to test on will do. The others are
    # dropped as soon as they are tensors: pictures of a camera are larger than a model's inputs.
    first = list(islice(frames, 1))
    task = imitation(teacher, chain(first, frames), first, school.manifest)
    checkpoint = None
    if school.work is not None:
        key = _digest(teacher_model, twin.model, task, options, layer_sparsity)
        checkpoint = school.work / f"{key}{SUFFIX}"
        if school.on_checkpoint is not None:
            school.on_checkpoint(checkpoint)
    done = train(
        twin.module,
        task,
        method,
        options.train,
        teacher=teacher,
        distill=options.distill,
        optimizer=optimizer,
        checkpoint=checkpoint,
        on_progress=school.on_progress,
    )
    return task, done


def _with_codes(rounded: CodedModel, options: CompressOptions) -> onnx.ModelProto:
    """The float model with the values of the codes, where the training wants such codes too.

    Pruned ones in any case: what stays has made up for what is gone.
    """
    assert options.quantize is not None
    layers = {layer.name: layer for layer in list_layers(rounded.model)}
    kept = {
        name: coded
        for name, coded in rounded.weights.items()
        if (of := options.quantize.of(name).weights) is not None
        and (options.prune is not None or of.code_set == coded.code_set)
    }
    return with_values(rounded.model, layers, kept)


def _masks(
    rounded: CodedModel, prune: PruneOptions, layer_sparsity: Mapping[str, float] | None
) -> dict[str, Tensor]:
    """What is not zero, of the layers that were pruned; in others a zero may be left again."""
    if not prune.sparsity and layer_sparsity is None:
        return {}
    return {
        name: torch.from_numpy(coded.codes != 0)
        for name, coded in rounded.weights.items()
        if name not in prune.dense
        and suits(coded.codes.shape, prune.granularity)
        and (layer_sparsity is None or layer_sparsity.get(name, 0.0))
    }


def _digest(
    teacher: onnx.ModelProto,
    student: onnx.ModelProto,
    task: Task,
    options: CompressOptions,
    layer_sparsity: Mapping[str, float] | None,
) -> str:
    """Of everything that decides how a training ends."""
    total = hashlib.sha256(code_digest().encode())
    for model in (teacher, student):
        total.update(model.SerializeToString(deterministic=True))
    total.update(f"{task.digest()} {torch.get_num_threads()} {options!r}".encode())
    total.update(repr(sorted((layer_sparsity or {}).items())).encode())
    return total.hexdigest()[:32]


def _inputs(task: Task) -> Iterator[Tensor]:
    """Every frame that was trained on, as it is."""
    for index in range(len(task)):
        yield task.batch(torch.tensor([index]), None)[0]


def _renamed(by_layer: Mapping[str, _T], twin: Twin) -> dict[str, _T]:
    """By module name instead of the ONNX node's."""
    unknown = sorted(by_layer.keys() - twin.module_of.keys())
    if unknown:
        raise InvalidInput(f"the model has no layer {', '.join(unknown)}")
    return {twin.module_of[name]: value for name, value in by_layer.items()}
