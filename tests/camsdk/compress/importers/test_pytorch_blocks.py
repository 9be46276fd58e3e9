"""Blocks of real image networks, exported by PyTorch, compute the same after the import."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from camsdk.compress.importers.pytorch import import_pytorch
from camsdk.errors import UnsupportedModel
from support.torch_modules import Of


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def agree(module: nn.Module, shape: tuple[int, ...]) -> None:
    """Three random inputs, every output: values within 1e-4, integers and truths equal."""
    model = import_pytorch(module, {"x": shape})
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for seed in range(3):
        data = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            expected = module.eval()(data)
        expected = (expected,) if isinstance(expected, Tensor) else expected
        found = session.run(None, {"x": data.numpy()})
        for value, wanted in zip(found, expected, strict=True):
            assert value.shape == wanted.shape
            if wanted.is_floating_point():
                np.testing.assert_allclose(value, wanted.numpy(), rtol=1e-4, atol=1e-5)
            else:
                assert value.dtype == wanted.numpy().dtype
                np.testing.assert_array_equal(value, wanted.numpy())


def ssd_head(m: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Boxes from offsets to anchors, as the detectors of torchvision decode them."""
    n, _, h, w = x.shape
    offsets = m.boxes(x).view(n, -1, 4, h, w).permute(0, 3, 4, 1, 2).reshape(n, -1, 4)
    scores = m.scores(x).permute(0, 2, 3, 1).reshape(n, -1, 5).softmax(-1)
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    centres = torch.stack([columns, rows], -1).reshape(-1, 1, 2).repeat(1, 2, 1).reshape(-1, 2)
    anchors = (centres.to(torch.float32) + 0.5) / torch.tensor([float(w), float(h)])
    middle = offsets[..., :2] * 0.1 * 0.5 + anchors
    size = torch.exp(torch.clamp(offsets[..., 2:] * 0.2, max=4.135)) * 0.5
    boxes = torch.cat([middle - size / 2, middle + size / 2], dim=-1).clamp(0, 1)
    best, classes = scores[..., 1:].max(dim=-1)
    kept, places = best.topk(6, dim=1)
    return boxes, best, classes, kept, torch.gather(boxes, 1, places[..., None].expand(-1, -1, 4))


def yolo_head(m: Any, x: Tensor) -> tuple[Tensor, ...]:
    """A grid of cells, and a distribution over distances (Li et al., arXiv:2006.04388)."""
    n, _, h, w = x.shape
    raw = m.head(x).view(n, 2, 9, h, w).permute(0, 1, 3, 4, 2).contiguous()
    xs, ys = torch.arange(w, dtype=torch.float32), torch.arange(h, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), 2).view(1, 1, h, w, 2)
    xy, wh, conf = raw.sigmoid().split((2, 2, 5), 4)
    xy, wh = (xy * 2 + grid - 0.5) * 8, (wh * 2) ** 2 * torch.tensor([10.0, 13.0])
    left, right = m.distances(x).view(n, 4, 4, -1).transpose(2, 1).softmax(1).chunk(2, 2)
    weights = torch.arange(4, dtype=torch.float32).view(1, 4, 1, 1)
    reach = (torch.cat((left, right), 2) * weights).sum(1)
    return torch.cat((xy, wh, conf), 4).view(n, -1, 9), reach, conf.argmax(-1), conf.argmin()


class Aspp(nn.Module):
    """Chen et al., arXiv:1706.05587, Section 3.3, and the mask that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(4, 3, 3, padding=rate, dilation=rate) for rate in (1, 2, 3)
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 3, 1), nn.ReLU())
        self.out = nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        size = x.shape[-2:]
        pooled = functional.interpolate(self.pool(x), size=size, mode="bilinear")
        x = self.out(torch.cat([*(branch(x) for branch in self.branches), pooled], 1))
        x = functional.interpolate(x, size=(20, 18), mode="bilinear", align_corners=False)
        mask = x.argmax(1)
        return x, mask, (mask == 1) & (x[:, 0] > 0), functional.one_hot(mask, 3)


class Encoder(nn.Module):
    """Dosovitskiy et al., arXiv:2010.11929, Equations 1 to 4, and windows that are shifted."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.qkv = nn.Linear(8, 24)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mask = torch.ones(5, 5, dtype=torch.bool).tril()
        masked = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        causal = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
        gram = torch.einsum("bhqd,bhkd->bhqk", q, k).masked_fill(~mask, float("-inf"))
        rolled = torch.roll(x, shifts=(-2, 1), dims=(1, 2))
        return self.mlp(x)[:, 0], masked + causal, gram.softmax(-1), rolled, torch.bmm(x, x.mT)


def gates(m: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Squeeze and excitation, shuffled channels, and what stands around them."""
    s = functional.adaptive_avg_pool2d(x, 1)
    x = x * functional.hardsigmoid(m.up(functional.relu(m.down(s))))
    n, c, h, w = x.shape
    shuffled = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
    return (
        functional.hardswish(shuffled),
        functional.relu6(x) + functional.selu(x) + functional.celu(x, 0.5),
        functional.logsigmoid(x) + functional.softsign(x) + functional.tanhshrink(x),
        functional.leaky_relu(x, 0.2) + functional.elu(x) + functional.threshold(x, 0.1, 0.2),
        functional.hardtanh(x, -0.4, 0.3) + functional.relu(x).clamp_max(0.5),
        m.norm(x) + m.instance(x),
        m.prelu(x),
    )


def choices(m: Any, x: Tensor) -> tuple[Tensor, ...]:
    """What chooses, counts and orders."""
    values, places = torch.max(x, 1, keepdim=True)
    least, where = x.min(dim=-1)
    return (
        torch.where(x > 0, x, x * 0.1),
        torch.where(x >= 0.5, 1.0, -1.0),
        torch.where((x < 0) | (x > 1), torch.zeros_like(x), x),
        values, places, least, where,
        x.max(), x.min(), x.argmax(), x.argmax(2, keepdim=True),
        x.cumsum(1), x.sort(dim=-1, descending=True)[0], x.argsort(dim=2),
        (x > 0).any(1), (x > 0).all(2), (x > 0).sum(1), (x != x).logical_not(),
        x.masked_fill(x.le(0), 3.0), (x > 0).float().mean((1, 2)), x.norm(dim=1),
        x.index_select(1, torch.tensor([2, 0])), x[:, torch.tensor([1, 1, 0])],
        x.prod(2), x.var(1), x.std(dim=(1, 2), unbiased=False), x.logsumexp(1),
    )  # fmt: skip


def rounding(m: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Numbers that are made whole, and angles."""
    whole = (x * 4).int()
    return (
        x.floor(), x.ceil(), x.round(), x.trunc(), x.frac(), x.sign(),
        torch.div(x, 0.3, rounding_mode="floor"), x // 0.3, torch.remainder(x, 0.7), x % 0.5,
        whole, whole * 2 + 1, whole // 3, whole % 3, whole / 2, whole.abs().clamp(1, 4), -whole,
        x.sin() + x.cos(), x.atan(), x.log1p().nan_to_num(0.25), x.expm1(),
        x.square().add(1).log2() + x.abs().add(1).log10(), 2**x, x.abs() ** 0.5, x.sinh(),
        torch.addcmul(x, x, x, value=0.5), torch.lerp(x, -x, 0.25), torch.full_like(x, 2.0) * x,
        torch.linspace(0, 1, 5) + x, torch.ones(5) - x, x.new_zeros(2, 1) + x, x.new_full((5,), 3),
    )  # fmt: skip


def layouts(m: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Padding, shuffles and what only moves numbers."""
    return (
        functional.pixel_shuffle(x, 2), functional.pixel_unshuffle(x, 2),
        functional.pad(x, (1, 2, 2, 1), mode="circular"), functional.pad(x, (-1, 1, 0, 2)),
        functional.pad(x, (1, 1, 1, 1), mode="reflect"), m.zero(x), m.mirror(x),
        x.flip(2), x.flip(2, 3), torch.tensor_split(x, 3, dim=3)[2], x.repeat(2, 1, 1, 1, 1),
        x.repeat_interleave(2, dim=2), x.narrow(2, 1, 2), x.movedim(1, -1), x.swapaxes(1, 2),
        torch.tril(x), torch.triu(x, 1), functional.unfold(x, 3, padding=1, stride=2),
        x[..., ::2, 1::2], x[:, None, -1], torch.hstack([x, x]), x.unfold(2, 2, 2),
        functional.grid_sample(x, m.zero(x)[..., :2].tanh(), align_corners=False),
        functional.channel_shuffle(x, 2), x.reshape_as(x).view_as(x), x.broadcast_to(2, 4, 4, 6),
    )  # fmt: skip


def scales(m: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Every way to another size."""
    return (
        m.groups(x), m.rates(x), m.sides(x), m.depth(x),
        functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
        functional.interpolate(x, size=(9, 5), mode="bicubic", align_corners=True),
        functional.interpolate(x, size=(3, 4), mode="bilinear"),
        functional.interpolate(x, scale_factor=(2, 3), mode="nearest"),
        functional.adaptive_avg_pool2d(x, (3, 4)), functional.adaptive_max_pool2d(x, (3, 4)),
        functional.adaptive_avg_pool2d(x, (None, 1)), functional.lp_pool2d(x.abs(), 2, 2),
        functional.max_pool2d(x, 3, 2, 1, dilation=1, return_indices=False),
        functional.avg_pool2d(x, 3, 2, 1, divisor_override=2),
        functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        functional.avg_pool1d(x[0], 2), functional.max_pool1d(x[0], 2),
        functional.local_response_norm(x, 3), functional.normalize(x, p=1.0),
        m.volume(x[:, None]),
    )  # fmt: skip


CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "ssd head": (Of(ssd_head, boxes=nn.Conv2d(4, 8, 1), scores=nn.Conv2d(4, 10, 1)), (1, 4, 3, 4)),
    "yolo head": (
        Of(yolo_head, head=nn.Conv2d(4, 18, 1), distances=nn.Conv2d(4, 16, 1)),
        (1, 4, 3, 4),
    ),
    "aspp": (Aspp(), (1, 4, 9, 8)),
    "vision transformer": (Encoder(), (1, 3, 8, 8)),
    "gates": (
        Of(
            gates,
            down=nn.Conv2d(4, 2, 1),
            up=nn.Conv2d(2, 4, 1),
            norm=nn.GroupNorm(2, 4),
            instance=nn.InstanceNorm2d(4, affine=True),
            prelu=nn.PReLU(4),
        ),
        (2, 4, 3, 5),
    ),
    "choices": (Of(choices), (2, 3, 4)),
    "rounding": (Of(rounding), (2, 5)),
    "layouts": (
        Of(layouts, zero=nn.ZeroPad2d((1, 0, 2, 1)), mirror=nn.ReflectionPad2d(1)),
        (1, 4, 4, 6),
    ),
    "scales": (
        Of(
            scales,
            groups=nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2),
            rates=nn.ConvTranspose2d(4, 2, 3, dilation=2, bias=False),
            sides=nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
            depth=nn.Conv2d(4, 8, 3, 2, 1, groups=4),
            volume=nn.Conv3d(1, 2, 3, padding=1),
        ),
        (1, 4, 5, 7),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_blocks(case: str) -> None:
    module, shape = CASES[case]
    agree(module, shape)


def test_a_tensor_that_others_share_is_not_changed_silently() -> None:
    """What ONNX would compute from the old values is refused; what nobody reads again is not."""
    agree(
        Of(lambda m, x: functional.dropout(x.view(2, 6), training=False, inplace=True).relu_()),
        (3, 4),
    )
    agree(Of(lambda m, x: (y := x * 2, y.view(2, 6).relu_())[1]), (3, 4))

    def viewed(m: Any, x: Tensor) -> Tensor:
        y = x * 2
        rows = y.view(2, 6)
        y.relu_()
        return rows

    with pytest.raises(UnsupportedModel, match=r"relu_.*node 2 of the program.*'view' shares"):
        import_pytorch(Of(viewed), {"x": (3, 4)})


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda m, x: x[x > 0], "shape in the program depends on data"),
        (lambda m, x: torch.fft.fft2(x).abs(), r"'aten.fft_fft2.default' of layer 'fft_fft2'"),
        (lambda m, x: x[torch.tensor([0, 1]), :, torch.tensor([1, 0])], "side by side"),
        (lambda m, x: functional.adaptive_avg_pool2d(x, 99), "does not divide"),
        (lambda m, x: x.int() & 3, "bits of numbers"),
        (lambda m, x: x.view(torch.int32), r"view.dtype, node 0 .*bytes of numbers"),
    ],
)
def test_refusals_say_why(function: Callable[..., Any], match: str) -> None:
    with pytest.raises(UnsupportedModel, match=match) as refused:
        import_pytorch(Of(function), {"x": (2, 100, 100)})
    assert refused.value.hint


def test_grids_share_the_memory_of_their_lines() -> None:
    def grid(m: Any, x: Tensor) -> tuple[Tensor, ...]:
        first, second = x[0] * 1, x[1] * 1
        columns, rows = torch.meshgrid(first, second, indexing="ij")
        second.mul_(2)
        return columns, rows

    with pytest.raises(UnsupportedModel, match=r"mul_.*changes a view"):
        import_pytorch(Of(grid), {"x": (2, 3)})
    agree(
        Of(lambda m, x: (y := x[0] * 1, torch.meshgrid(y, x[1], indexing="ij")[1], y.mul_(2))[1:]),
        (2, 3),
    )


HIDDEN = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])


def test_queries_that_see_nothing_answer_zeros() -> None:
    """Of masks that the program holds, that it computes, of truths and of numbers."""

    def attend(m: Any, x: Tensor) -> tuple[Tensor, ...]:
        numbers = torch.zeros(3, 3).masked_fill(~m.hidden, -torch.inf)
        masks = (m.hidden, numbers, m.numbers, m.hidden & (x[0] > -9), m.hidden[:2].any(0)[None])
        return tuple(
            functional.scaled_dot_product_attention(x, x * 2, x + 1, attn_mask=mask)
            for mask in masks
        )

    module = Of(attend)
    module.register_buffer("hidden", HIDDEN)
    module.register_buffer("numbers", torch.where(HIDDEN, 0.5, -torch.inf))
    agree(module, (2, 3, 3))


def test_a_mask_of_which_every_query_sees_something_costs_nothing() -> None:
    module = Of(lambda m, x: functional.scaled_dot_product_attention(x, x, x, attn_mask=m.hidden))
    module.register_buffer("hidden", HIDDEN[[0, 2, 0]])
    model = import_pytorch(module, {"x": (1, 3, 2)})
    assert "ReduceMax" not in {node.op_type for node in model.graph.node}


def test_logarithms_and_powers_near_their_zeros() -> None:
    numbers = np.array(
        [0, 1e-10, -1e-10, 1e-6, -1e-6, 3e-4, -0.01, 0.3, -0.49, -0.51, 0.6, 7, 80, -0.999, -1],
        np.float32,
    )
    model = import_pytorch(
        Of(lambda m, x: (x.log1p(), x.expm1(), (x * 1e38 * 10).log1p())), {"x": numbers.shape}
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    logarithm, power, far = session.run(None, {"x": numbers})
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(logarithm, np.log1p(numbers.astype(np.float64)), rtol=2e-6)
    np.testing.assert_allclose(power, np.expm1(numbers.astype(np.float64)), rtol=2e-6)
    assert far[12] == np.inf
    assert np.isnan(far[-1])
