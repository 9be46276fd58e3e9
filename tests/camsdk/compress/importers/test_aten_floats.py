"""Operators whose arguments are floats, switches or texts, exported by PyTorch with them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from camsdk.compress.importers.pytorch import import_pytorch
from camsdk.compress.sessions import Session
from support.torch_modules import Of

SHAPE = (2, 4, 6)
"""Of the one input."""

CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "arange from 0": lambda x: x[0, 0, :1] + torch.arange(0.0, 8.0),
    "arange to": lambda x: x[0, 0, :1] + torch.arange(4.5),
    "arange from": lambda x: x[0, 0, :1] + torch.arange(0.5, 8.5),
    "arange by": lambda x: x[0, 0, :1] + torch.arange(8.25, 0.5, -0.75),
    "arange to a whole type": lambda x: (
        x[0, 0, :1] + torch.arange(0.5, 6, 1.5, dtype=torch.int64)
    ),
    "linspace": lambda x: x + torch.linspace(-0.5, 2.5, 6),
    "full": lambda x: x + torch.full((4, 6), 0.5),
    "full_like": lambda x: x + torch.full_like(x, 0.5),
    "new_full": lambda x: x + x.new_full((6,), 0.5),
    "ones and zeros": lambda x: (
        x + torch.ones(6, pin_memory=False) + torch.zeros_like(x) + x.new_ones(6) + x.new_zeros(6)
    ),
    "scalar_tensor": lambda x: x + torch.scalar_tensor(0.5),
    "tril and triu": lambda x: torch.tril(x, 1) + torch.triu(x, -1),
    "meshgrid": lambda x: x + torch.meshgrid(x[0, 0], x[0, :, 0], indexing="xy")[0],
    "add": lambda x: torch.add(x, x, alpha=0.5) + 0.25,
    "sub": lambda x: torch.sub(x, x * x, alpha=0.5) - 0.25,
    "rsub": lambda x: torch.rsub(x, x * x, alpha=0.5) + (0.25 - x),
    "mul and div": lambda x: x * 0.3 / 0.7,
    "div down": lambda x: torch.div(x, 0.3, rounding_mode="floor") + x // 0.7,
    "div to 0": lambda x: torch.div(x, 0.3, rounding_mode="trunc"),
    "remainder": lambda x: torch.remainder(x, 0.7),
    "pow": lambda x: torch.pow(x.abs(), 1.5) + torch.pow(1.5, x),
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5),
    "addcdiv": lambda x: torch.addcdiv(x, x, x.abs() + 1, value=0.5),
    "addmm": lambda x: torch.addmm(x[0, 0, :4], x[0], x[1].mT, beta=0.5, alpha=1.5),
    "baddbmm": lambda x: torch.baddbmm(x[..., :4], x, x.mT, beta=0.5, alpha=1.5),
    "lerp": lambda x: torch.lerp(x, x * x, 0.3),
    "comparisons": lambda x: (x > 0.1) & (x != 0.2) & (x <= 0.9) | (x == -0.1),
    "where": lambda x: torch.where(x > 0, 0.5, x) + torch.where(x > 0, x, -0.5),
    "masked_fill": lambda x: x.masked_fill(x > 0, 0.5),
    "clamp": lambda x: x.clamp(-0.3, 0.4) + x.clamp_min(-0.2) + x.clamp_max(0.1),
    "nan_to_num": lambda x: torch.nan_to_num(x, 0.5),
    "elu": lambda x: functional.elu(x, 1.5) + functional.celu(x, 1.5) + functional.selu(x),
    "gelu": lambda x: functional.gelu(x) + functional.gelu(x, approximate="tanh"),
    "hardtanh": lambda x: functional.hardtanh(x, -0.3, 0.4),
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.2, inplace=False),
    "softplus": lambda x: functional.softplus(x, 1.5, 20.0),
    "threshold": lambda x: functional.threshold(x, 0.1, 0.2),
    "pad": lambda x: functional.pad(x, (1, 2), value=0.5) + functional.pad(x, (1, 2), "reflect"),
    "norms": lambda x: (
        functional.layer_norm(x, (6,), eps=0.1) + functional.group_norm(x, 2, eps=0.1)
    ),
    "instance_norm": lambda x: functional.instance_norm(x, momentum=0.3, eps=0.1),
    "batch_norm": lambda x: functional.batch_norm(x, x[0, :, 0], x[0, :, 1] ** 2, momentum=0.3),
    "std and var": lambda x: x.std(1, correction=0, keepdim=True) + x.var(2, True)[..., None],
    "vector_norm": lambda x: torch.linalg.vector_norm(x, 2.0, 1) + x.norm(1.0, 2)[:, :1],
    "sums": lambda x: x.sum(1, keepdim=True) + x.mean(2, keepdim=True) + x.amax(1, keepdim=True),
    "attention": lambda x: functional.scaled_dot_product_attention(x, x, x, scale=0.3),
    "dropout": lambda x: functional.dropout(x, 0.3, training=False),
    "interpolate": lambda x: functional.interpolate(x, scale_factor=1.5, mode="linear"),
    "interpolate to corners": lambda x: functional.interpolate(
        x[None], scale_factor=(2.0, 1.5), mode="bilinear", align_corners=True
    ),
    "avg_pool": lambda x: functional.avg_pool1d(x, 3, 2, 1, True, False),
    "max_pool": lambda x: functional.max_pool1d(x, 3, 2, 1, ceil_mode=True),
    "conv": lambda x: functional.conv1d(x, torch.full((3, 4, 3), 0.25), padding="same"),
    "gather": lambda x: torch.gather(x, 2, x.argmax(2, keepdim=True), sparse_grad=True),
    "topk and sort": lambda x: (
        x.topk(4, 1, largest=False, sorted=True)[0]
        + torch.sort(x, stable=True, dim=1, descending=True)[0]
    ),
    "to": lambda x: x.to(torch.float32, non_blocking=True, copy=True) + x.expand(2, 2, 4, 6),
}  # fmt: skip


@pytest.mark.parametrize("call", CASES.values(), ids=CASES)
def test_arguments_of_every_kind_are_taken(call: Callable[[Tensor], Tensor]) -> None:
    torch.set_num_threads(1)
    module = Of(lambda _, x: call(x))
    data = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    model = import_pytorch(module, {"x": SHAPE})
    (found,) = Session(model.SerializeToString()).infer(data.numpy()).values()
    expected = call(data).numpy()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
