"""Hostile graphs of TensorFlow and TensorFlow.js."""

import os
from collections.abc import Callable
from typing import Any

from support.foreign_models import (
    Foreign,
    edit_json,
    tf_input,
    tf_ints,
    tf_node,
    tf_splat,
    tfjs_net,
)
from support.hostile_case import Case
from support.tensorflow import GraphFile

HUGE = 1 << 40

# TensorFlow


def _graph(*nodes: bytes) -> Callable[[Foreign], object]:
    """A graph whose input is ``x``."""
    return lambda model: model.files[0].write_bytes(tf_input("x", 1, 8, 8, 3) + b"".join(nodes))


def _replaced(old: bytes, new: bytes) -> Callable[[Foreign], object]:
    def damage(model: Foreign) -> None:
        content = model.files[0].read_bytes()
        assert old in content
        model.files[0].write_bytes(content.replace(old, new))

    return damage


_CHAIN = [tf_node(f"n{i}", "Relu", f"n{i - 1}" if i else "x") for i in range(5000)]

TENSORFLOW = [
    Case(
        "tensorflow",
        "unknown operator",
        _replaced(b"\x12\x07Softmax", b"\x12\x07Softmix"),
        ["'Softmix'", "'Softmax'"],
    ),
    Case(
        "tensorflow",
        "reads a file",
        _graph(tf_node("odd", "ReadFile", "x"), tf_node("y", "Relu", "odd")),
        ["'ReadFile'", "'odd'"],
    ),
    Case(
        "tensorflow",
        "constant of 2^28 numbers in one",
        _graph(tf_splat("c", 1 << 28), tf_node("y", "AddV2", "x", "c")),
        ["'c'"],
    ),
    Case(
        "tensorflow",
        "constant of 2^80 numbers in one",
        _graph(tf_splat("c", HUGE, HUGE), tf_node("y", "AddV2", "x", "c")),
        ["'c'"],
    ),
    Case(
        "tensorflow",
        "Fill",
        _graph(
            tf_ints("n", 1 << 20, 1 << 20),
            tf_splat("v"),
            tf_node("f", "Fill", "n", "v"),
            tf_node("y", "AddV2", "x", "f"),
        ),
        ["'f'"],
    ),
    Case(
        "tensorflow",
        "resize to 2^60 pixels",
        _graph(tf_ints("n", 1 << 30, 1 << 30), tf_node("y", "ResizeNearestNeighbor", "x", "n")),
        ["'y'"],
    ),
    Case(
        "tensorflow",
        "input of 2^80 numbers",
        lambda m: m.files[0].write_bytes(tf_input("x", HUGE, HUGE) + tf_node("y", "Relu", "x")),
        ["'x'"],
    ),
    Case(
        "tensorflow",
        "cycle",
        _graph(
            tf_node("a", "AddV2", "x", "b"), tf_node("b", "Relu", "a"), tf_node("y", "Relu", "b")
        ),
        ["loop"],
    ),
    Case("tensorflow", "two layers of one name", _graph(tf_node("x", "Relu", "x")), ["'x'"]),
    Case(
        "tensorflow",
        "a chain of 5,000 layers",
        _graph(*_CHAIN, tf_node("y", "Odd", "n4999")),
        ["'Odd'"],
    ),
]


# TensorFlow.js


def _tfjs(change: Callable[[GraphFile], object]) -> Callable[[Foreign], object]:
    def damage(model: Foreign) -> None:
        file = tfjs_net()
        change(file)
        file.write(model.files[0].parent)

    return damage


def _tfjs_json(change: Callable[[Any], Any]) -> Callable[[Foreign], object]:
    return lambda model: edit_json(model.files[0], change)


def _shard(place: str) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        document["weightsManifest"][0]["paths"] = [place]

    return change


def _tfjs_link(model: Foreign) -> None:
    secret = model.files[0].parent.parent / "secret.bin"
    model.files[1].rename(secret)
    model.files[1].symlink_to(secret)


def _tfjs_pipe(model: Foreign) -> None:
    """Nobody ever writes into it."""
    model.files[1].unlink()
    os.mkfifo(model.files[1])


def _many_shards(model: Foreign) -> None:
    """16 GB from one sparse file of 16 MB."""
    with model.files[1].open("wb") as file:
        file.truncate(16 << 20)
    edit_json(
        model.files[0],
        lambda document: document["weightsManifest"][0].update(paths=["weights.bin"] * 1000),
    )


def _tfjs_shape(document: Any) -> None:
    for row in document["weightsManifest"][0]["weights"]:
        row["shape"] = [HUGE] * 4


def _tfjs_cycle(document: Any) -> None:
    node = next(n for n in document["modelTopology"]["node"] if n["name"] == "conv")
    node["input"][0] = "y"


TFJS = [
    Case(
        "tfjs",
        "unknown operator",
        _tfjs(lambda file: file.node("my/layer", "MatrixInverse", "y")),
        ["'MatrixInverse'", "'my/layer'"],
    ),
    Case("tfjs", "weights of 2^160 numbers", _tfjs_json(_tfjs_shape), ["truncated"]),
    Case(
        "tfjs",
        "SparseToDense",
        _tfjs(
            lambda file: (
                file.node(
                    "z",
                    "SparseToDense",
                    *(file.constant(f"c{i}", v) for i, v in enumerate(([[0]], [1 << 30], [1], 0))),
                )
                and file.node("z2", "Add", "y", "z")
            )
        ),
        ["'z'"],
    ),
    Case(
        "tfjs",
        "Pad",
        _tfjs(lambda file: file.node("z", "Pad", "y", file.constant("p", [[1 << 30] * 2] * 4))),
        ["'z'"],
    ),
    Case(
        "tfjs",
        "Pad of a constant",
        _tfjs(
            lambda file: file.node(
                "z",
                "Add",
                "y",
                file.node(
                    "q", "Pad", file.constant("c", [1.0]), file.constant("p", [[0, 1 << 30]])
                ),
            )
        ),
        ["'z'"],
    ),
    Case(
        "tfjs",
        "resize to 2^60 pixels",
        _tfjs(
            lambda file: file.node(
                "z",
                "ResizeBilinear",
                "y",
                file.constant("n", [1 << 30, 1 << 30]),
                half_pixel_centers={"b": True},
            )
        ),
        ["'z'"],
    ),
    Case("tfjs", "cycle", _tfjs_json(_tfjs_cycle), ["loop"]),
    Case(
        "tfjs",
        "deep JSON",
        lambda model: model.files[0].write_bytes(b'{"modelTopology":' + b"[" * 1_000_000),
        ["JSON"],
    ),
    *(
        Case("tfjs", f"weights in {place}", _tfjs_json(_shard(place)), ["weight file"])
        for place in ("../secret.bin", "/etc/passwd", "a/../../b", "", ".", "..")
    ),
    Case("tfjs", "weights are a link", _tfjs_link, ["link"]),
    Case("tfjs", "weights are a pipe", _tfjs_pipe, ["missing"]),
    Case("tfjs", "one weight file 1,000 times", _many_shards, ["twice"]),
    Case(
        "tfjs",
        "weights of another model",
        lambda model: model.files[1].write_bytes(bytes(5000)),
        ["another model"],
    ),
]
