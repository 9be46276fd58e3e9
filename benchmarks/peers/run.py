"""One contender in its own process: ``run.py METHOD NET SEED ROW.json STATE.pt DATA OUT.json``.

``METHOD_distilled`` is the method with the float network as its teacher.
"""

import copy
import importlib
import json
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from peers.distilling import distilled
from peers.nets import EDGES, make
from peers.recipe import (
    FINE_TUNE_RATE,
    Contender,
    Row,
    accuracy,
    batches,
    decayed,
    multiply_accumulates,
    read_pictures,
    split,
    train,
)


def zeros(module: nn.Module, edges: tuple[str, ...]) -> float:
    """Share of zeros in the weights of all layers but the first and the last."""
    weights = [
        layer.weight.detach()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and not name.startswith(edges)
    ]
    return sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.numel() for w in weights))


def prepared(method: str, module: nn.Module, row: Row, net: str, example: Tensor) -> Contender:
    """The module as the method trains it."""
    if method == "float":
        return Contender(module)
    name = method.removesuffix("_distilled")
    teacher = copy.deepcopy(module).eval() if name != method else None
    contender: Contender = importlib.import_module(f"peers.{name}").prepare(
        module, row, EDGES[net], example
    )
    return contender if teacher is None else distilled(contender, teacher)


def main() -> None:
    method, net, seed, row, state, data, epochs, out = sys.argv[1:9]
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(int(seed))
    asked = Row(**json.loads(row))
    module = make(net)
    module.load_state_dict(torch.load(state, weights_only=True))
    files = json.loads(data)
    trained, held = split(read_pictures(Path(files["train"][0]), Path(files["train"][1])))
    test = read_pictures(Path(files["test"][0]), Path(files["test"][1]))
    example = next(batches(trained, 1, int(seed)))[0]
    begin = accuracy(module, test) if method == "float" else None
    contender = prepared(method, module, asked, net, example)
    dense = multiply_accumulates(make(net), example)
    start = time.process_time()
    contender.parameters = contender.parameters or decayed(contender.module)
    train(contender, trained, epochs=float(epochs), peak=FINE_TUNE_RATE, seed=1000 + int(seed))
    result = {
        "method": method, "net": net, "seed": int(seed), "row": asked.name,
        "held": accuracy(contender.module, held), "test": accuracy(contender.module, test),
        "start": begin,
        "cpu_s": time.process_time() - start, "zeros": zeros(contender.module, EDGES[net]),
        "macs": multiply_accumulates(contender.module, example) / dense,
    }  # fmt: skip
    Path(out).write_text(json.dumps(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
