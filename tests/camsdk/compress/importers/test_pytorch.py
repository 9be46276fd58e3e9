"""Imported PyTorch networks compute what PyTorch computes, and no pickle is opened."""

import inspect
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camsdk.compress.importers.pytorch import import_pytorch
from camsdk.errors import CamError, DataCorrupted, InvalidInput, NotFound, UnsupportedModel
from camsdk.zoo.mobilenetv2 import MobileNetV2
from camsdk.zoo.resnet import resnet20
from support.torch_modules import Of

GOLDEN = Path(__file__).parents[3] / "golden"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def randomize(module: nn.Module) -> nn.Module:
    """Statistics and weights that no mistake survives."""
    generator = torch.Generator().manual_seed(4)
    for part in module.modules():
        if isinstance(part, nn.LayerNorm | nn.GroupNorm):
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            part.bias.data.normal_(generator=generator)
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            part.bias.data.normal_(generator=generator)
    return module


def agree(module: nn.Module, *shape: int) -> onnx.ModelProto:
    model = import_pytorch(module, {"x": shape})
    data = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    with torch.no_grad():
        expected = module.eval()(data)
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = session.run(None, {"x": data.numpy()})
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted.numpy(), rtol=1e-4, atol=1e-5)
    return model


@pytest.mark.parametrize(
    "module", [resnet20(width=4), MobileNetV2(width=0.25)], ids=["resnet20", "mobilenetv2"]
)
def test_zoo(module: nn.Module) -> None:
    module = randomize(module).train()
    model = agree(module, 1, 1, 28, 28)
    convolutions = {name for name, part in module.named_modules() if isinstance(part, nn.Conv2d)}
    norms = [name for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)]
    nodes = {node.name: node.op_type for node in model.graph.node}
    assert {name for name, op in nodes.items() if op == "Conv"} == convolutions
    assert {name for name, op in nodes.items() if op == "BatchNormalization"} == set(norms)


def mixed(m: Any, x: Tensor) -> Tensor:
    x = functional.silu(m.conv(x)) + functional.hardswish(x[:, :1])
    a, b = x.chunk(2, dim=1)
    x = torch.cat([torch.sigmoid(a) * b, b.clamp(-1, 0.5)], 1)
    return m.prelu(m.up(functional.interpolate(x, scale_factor=2, mode="nearest")))


CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "gates and branches": (
        Of(
            mixed,
            conv=nn.Conv2d(3, 4, 3, padding="same", dilation=2),
            up=nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2),
            prelu=nn.PReLU(6),
        ),
        (1, 3, 8, 6),
    ),
    "pools": (
        Of(
            lambda m, x: (
                functional.max_pool2d(x, 3, 2, 1, ceil_mode=True),
                functional.avg_pool2d(x, 3, 2, 1),
                functional.avg_pool2d(x, 2, ceil_mode=True),
                functional.adaptive_avg_pool2d(x, (3, 2)),
                x.mean((2, 3), keepdim=True),
                x.mean(dim=1),
            )
        ),
        (2, 3, 9, 8),
    ),
    "pools that round up": (
        Of(
            lambda m, x: (
                functional.max_pool2d(x, 2, 3, ceil_mode=True),
                functional.max_pool2d(x, 3, 2, 1, ceil_mode=True),
                functional.avg_pool2d(x, 2, 3, ceil_mode=True),
                functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
            )
        ),
        (1, 2, 6, 7),
    ),
    "resizes": (
        Of(
            lambda m, x: (
                functional.interpolate(x, scale_factor=1.5),
                functional.interpolate(x, scale_factor=1.5, mode="bilinear"),
                functional.interpolate(x, scale_factor=1.3, mode="bilinear", align_corners=True),
                functional.interpolate(x, size=(3, 4), mode="nearest-exact"),
                functional.interpolate(x, scale_factor=2, mode="bicubic"),
                functional.pad(x, (1, 2, 1, 0), mode="reflect"),
                functional.pad(x, (1, 2, 1, 0), mode="replicate"),
            )
        ),
        (1, 2, 5, 7),
    ),
    "activations": (
        Of(
            lambda m, x: (
                functional.gelu(x),
                functional.gelu(x, approximate="tanh"),
                functional.mish(x),
                functional.glu(x, 1),
                functional.softplus(x, 2.5),
                1.5 - x,
                torch.add(x, x.square(), alpha=0.5),
                1 / (x.abs() + 1),
                torch.rsqrt(x.abs() + 1),
            )
        ),
        (1, 4, 3, 5),
    ),
    "norms and reductions": (
        Of(
            lambda m, x: (
                m.layer(x),
                m.group(x),
                functional.group_norm(x, 4),
                functional.instance_norm(x),
                functional.normalize(x, dim=1),
                x.sum((2, 3)),
                x.amax(1, keepdim=True) - x.amin(),
                torch.maximum(x, -x),
                torch.stack([x, x * 2], -1),
                torch.unbind(x, 1)[2],
                x[:, :1].expand(-1, 4, -1, -1) * x,
                x.repeat(1, 2, 1, 1),
            ),
            layer=nn.LayerNorm([3, 5]),
            group=nn.GroupNorm(2, 4),
        ),
        (2, 4, 3, 5),
    ),
    "in place": (Of(lambda m, x: (y := x * 2 - 1, functional.relu_(y), y + 1)[1:]), (1, 2, 3)),
    "shapes": (
        Of(
            lambda m, x: (
                functional.pixel_shuffle(x, 2),
                functional.pad(x, (1, 2, 0, 3), value=0.5),
                x.permute(0, 2, 3, 1).reshape(2, -1, 4).softmax(-1),
                x.transpose(1, 2)[:, 1:3, ::2],
                x[:, 1].unsqueeze(1).log_softmax(2),
                x.flatten(1).tanh(),
            )
        ),
        (2, 4, 4, 5),
    ),
    "linear": (
        Of(
            lambda m, x: (m.flat(x.flatten(1)), m.rows(x), torch.matmul(x, x.transpose(1, 2))),
            flat=nn.Linear(12, 3),
            rows=nn.Linear(4, 5, bias=False),
        ),
        (2, 3, 4),
    ),
    "bilinear": (
        Of(
            lambda m, x: functional.interpolate(
                x, size=(7, 9), mode="bilinear", align_corners=False
            )
        ),
        (1, 2, 4, 5),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_operators(case: str) -> None:
    module, shape = CASES[case]
    agree(randomize(module), *shape)


class Multiplied(nn.Module):
    """Of an operator that is not imported."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumprod(0)


def test_refusals_name_the_layer() -> None:
    with pytest.raises(UnsupportedModel, match=r"'fft_fft\.default'|'fft_fft|fft"):
        import_pytorch(Of(lambda m, x: torch.fft.fft(x).real), {"x": (4,)})
    line = inspect.getsourcelines(Multiplied.forward)[1] + 1
    where = (
        r"'aten.cumprod.default' of layer 'part/cumprod' "
        rf"\(node 1 of .*test_pytorch.py line {line}\)"
    )
    with pytest.raises(UnsupportedModel, match=f"{where}.*torch.onnx.export") as refused:
        import_pytorch(Of(lambda m, x: m.part(x + 1), part=Multiplied()), {"x": (4,)})
    assert len(str(refused.value)) < 500
    with pytest.raises(UnsupportedModel, match=r"torch\.export cannot export"):
        import_pytorch(Of(lambda m, x: x if x.sum() > 0 else -x), {"x": (4,)})
    with pytest.raises(InvalidInput, match="input_shapes"):
        import_pytorch(nn.ReLU())


def test_the_module_keeps_its_mode() -> None:
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).train()
    module[1].eval()
    import_pytorch(module, {"input": (1, 1, 4, 4)})
    assert [part.training for part in module.modules()] == [True, True, False]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 1, 6, 6),)), path)
    return path


def test_a_saved_program(program: Path) -> None:
    model = import_pytorch(program)
    assert [node.op_type for node in model.graph.node] == ["Conv", "BatchNormalization", "Relu"]
    name = model.graph.input[0].name
    import_pytorch(program, {name: (1, 1, 6, 6)})
    with pytest.raises(InvalidInput, match="export it again"):
        import_pytorch(program, {name: (1, 1, 7, 7)})


def test_a_trained_program_gives_what_pytorch_gave() -> None:
    """Gates, two scales and a free batch (tests/golden/pytorch_fashion.py)."""
    golden = np.load(GOLDEN / "pytorch_fashion.npz")
    data = golden["data"].astype(np.float32)
    model = import_pytorch(GOLDEN / "pytorch_fashion.pt2", {"image": data.shape})
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"image": data})
    np.testing.assert_allclose(found, golden["pytorch"], rtol=1e-4, atol=1e-4)
    assert len(set(found.argmax(1).tolist())) >= 8  # it tells clothes apart


def stretched(m: Any, x: Tensor) -> Tensor:
    """Lengths that follow from the batch."""
    rows = x.view(x.shape[0], -1)
    pairs = torch.cat([rows, rows * 2], 0).reshape(2 * x.shape[0], x.shape[1], -1)
    return pairs.mean(1)


def test_a_free_batch_becomes_one_or_what_is_given(tmp_path: Path) -> None:
    path = tmp_path / "free.pt2"
    batch = torch.export.Dim("batch", min=1, max=8)
    module, example = Of(stretched).eval(), torch.randn(3, 2, 4, 5)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    for given, count in ((None, 1), ({"x": (5, 2, 4, 5)}, 5)):
        model = import_pytorch(path, given)
        assert [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == [
            2 * count, 20,
        ]  # fmt: skip
        data = torch.randn(count, 2, 4, 5)
        found = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, {"x": data.numpy()})
        np.testing.assert_allclose(found[0], module(data).numpy(), rtol=1e-5, atol=1e-6)
    for wrong, match in (
        ({"x": (9, 2, 4, 5)}, "from 1 to 8"),
        ({"x": (2, 3, 4, 5)}, "export it again"),
        ({"x": (2, 40)}, "axes"),
        ({"y": (2, 2, 4, 5)}, "no input"),
    ):
        with pytest.raises(InvalidInput, match=match):
            import_pytorch(path, wrong)


def test_another_free_length_must_be_given(tmp_path: Path) -> None:
    path = tmp_path / "free.pt2"
    width = torch.export.Dim("width", min=2, max=64)
    module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU()).eval()
    program = torch.export.export(module, (torch.randn(1, 1, 8, 8),), dynamic_shapes=({3: width},))
    torch.export.save(program, path)
    (name,) = [item.name for item in program.graph.nodes if item.op == "placeholder"][-1:]
    with pytest.raises(InvalidInput, match=r"8, 0\)"):
        import_pytorch(path)
    model = import_pytorch(path, {name: (1, 1, 8, 12)})
    assert model.graph.output[0].type.tensor_type.shape.dim[3].dim_value == 12


class Trap:
    """Unpickling it is noticed."""

    opened = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Trap, "opened", True))


def test_pickles_are_refused_unopened(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for save in (torch.save, lambda value, where: where.write_bytes(pickle.dumps(value))):
        save(Trap(), path)
        with pytest.raises(UnsupportedModel, match=r"pickle.*torch\.export\.save"):
            import_pytorch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", b"")
    with pytest.raises(UnsupportedModel, match=r"TorchScript.*torch\.export\.save"):
        import_pytorch(path)
    with pytest.raises(NotFound):
        import_pytorch(tmp_path / "none.pt2")
    assert not Trap.opened


def changed(source: Path, target: Path, edit: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of an archive whose members were edited."""
    with zipfile.ZipFile(source) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    edit(members)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def replace(ending: str, old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    def edit(members: dict[str, bytes]) -> None:
        (name,) = [name for name in members if name.endswith(ending)]
        text = members[name].decode()
        assert old in text
        members[name] = text.replace(old, new).encode()

    return edit


def free(expression: str) -> str:
    return f'"as_expr": {{"expr_str": "{expression}"}}'


WEIGHTS, MODEL = "data/weights/model_weights_config.json", "models/model.json"


@pytest.mark.parametrize(
    ("edit", "error", "match"),
    [
        (replace(WEIGHTS, '"use_pickle": false', '"use_pickle": true'), UnsupportedModel, "pickle"),
        (replace(WEIGHTS, '"weight_0"', '"../weight_0"'), UnsupportedModel, "lies in"),
        (replace(WEIGHTS, '"as_int": 3', '"as_int": 300'), DataCorrupted, "beyond"),
        (replace(WEIGHTS, '"as_int": 3', '"as_expr": {}'), DataCorrupted, "malformed"),
        (replace(WEIGHTS, '"as_int": 3', free("Symbol('s9')")), UnsupportedModel, "no input"),
        (replace(WEIGHTS, '"as_int": 3', free("exit(Integer(1))")), UnsupportedModel, "exit"),
        (replace(WEIGHTS, '"as_int": 3', free("Pow(2, 3")), DataCorrupted, "no expression"),
        (replace(MODEL, "torch.ops.aten.relu.default", "os.system"), UnsupportedModel, "os.system"),
        (replace(MODEL, "conv2d.default", "conv9d.default"), UnsupportedModel, "conv9d"),
        (
            lambda members: members.update({"net/data/constants/custom_obj_0": b""}),
            UnsupportedModel,
            "custom_obj_0",
        ),
        (lambda members: members.update({"net/data/weights/w.pt": b""}), UnsupportedModel, "w.pt"),
    ],
)
def test_hostile_archives(
    program: Path,
    tmp_path: Path,
    edit: Callable[[dict[str, bytes]], None],
    error: type[CamError],
    match: str,
) -> None:
    with pytest.raises(error, match=match):
        import_pytorch(changed(program, tmp_path / "hostile.pt2", edit))


def test_the_sample_inputs_are_not_opened(program: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(Trap(), buffer)

    def edit(members: dict[str, bytes]) -> None:
        (name,) = [name for name in members if "sample_inputs" in name]
        members[name] = buffer.getvalue()

    import_pytorch(changed(program, tmp_path / "trap.pt2", edit))
    assert not Trap.opened


def test_truncated_and_damaged_files_give_typed_errors(program: Path, tmp_path: Path) -> None:
    whole = program.read_bytes()
    path = tmp_path / "damaged.pt2"
    generator = np.random.default_rng(3)
    refused = 0
    for round_ in range(80):
        is_cut = round_ % 2 == 1
        data = bytearray(whole[: generator.integers(len(whole))] if is_cut else whole)
        for _ in range(0 if is_cut else 4):
            data[generator.integers(len(data))] ^= 1 << generator.integers(8)
        path.write_bytes(data)
        try:
            import_pytorch(path)
        except CamError:
            refused += 1
    assert refused > 40


def test_damaged_programs_give_typed_errors(program: Path, tmp_path: Path) -> None:
    """The graph itself, without the checksum of the archive before it."""
    generator = np.random.default_rng(6)
    refused = 0
    for _ in range(60):

        def edit(members: dict[str, bytes]) -> None:
            (name,) = [name for name in members if name.endswith(MODEL)]
            text = json.loads(members[name])
            for node in text["graph_module"]["graph"]["nodes"]:
                del node["metadata"]
            damage(text["graph_module"], generator)
            members[name] = json.dumps(text).encode()

        try:
            import_pytorch(changed(program, tmp_path / "damaged.pt2", edit))
        except CamError:
            refused += 1
    assert refused > 10  # most leaves are of no interest to the reader


def damage(value: Any, generator: np.random.Generator) -> None:
    """Replace one leaf of a tree by something else."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = keys[int(generator.integers(len(keys)))]
        if not isinstance(value[key], dict | list) or generator.random() < 0.1:
            value[key] = [None, -1, 1 << 40, "x", [], {}, 2.5][int(generator.integers(7))]
            return
        value = value[key]
