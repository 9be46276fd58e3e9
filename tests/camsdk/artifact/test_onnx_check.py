import random
import time

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from camsdk.artifact.onnx_check import DETECTOR_OPERATORS, MAX_NODES, check_model
from camsdk.errors import CamError, DataCorrupted, UnsupportedModel
from support import models

LOOPS = DETECTOR_OPERATORS | {"Loop"}


def field(number: int, content: bytes | int) -> bytes:
    """One protobuf field: a varint or a length-delimited one."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def graph_with(node: bytes = b"", initializer: bytes = b"") -> bytes:
    content = (field(1, node) if node else b"") + (field(5, initializer) if initializer else b"")
    return field(7, content)


@pytest.mark.parametrize("model", [models.conv(), models.fill(), models.slow_products()])
def test_harmless_names_pass(model: onnx.ModelProto) -> None:
    check_model(model.SerializeToString())


def test_every_allowed_operator_is_of_onnx_and_has_no_subgraph() -> None:
    own = {schema.name: schema for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    graph = onnx.defs.OpSchema.AttrType.GRAPH
    assert own.keys() >= DETECTOR_OPERATORS
    for name in DETECTOR_OPERATORS:
        assert all(attribute.type != graph for attribute in own[name].attributes.values()), name


@pytest.mark.parametrize(
    "domain", ["evil.example", "com.microsoft", "ai.onnx.ml", "AI.ONNX", " ", "é" * 100]
)
def test_foreign_domains(domain: str) -> None:
    with pytest.raises(UnsupportedModel, match="operator of the domain"):
        check_model(models.custom_operator(domain).SerializeToString())


def test_the_own_domain_may_be_spelled_out() -> None:
    check_model(models.custom_operator("ai.onnx").SerializeToString())


@pytest.mark.parametrize(
    "name", ["Loop", "If", "Scan", "RandomNormal", "relu", "Relu\0", "", "R" * 1000]
)
def test_operators_that_are_not_on_the_list(name: str) -> None:
    with pytest.raises(UnsupportedModel, match="operator"):
        check_model(graph_with(field(4, name.encode())))


def test_control_flow_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="Loop"):
        check_model(models.endless_loop().SerializeToString())


def test_a_subgraph_is_checked_like_the_graph() -> None:
    loop = models.endless_loop()
    check_model(loop.SerializeToString(), LOOPS)
    loop.graph.node[0].attribute[0].g.node[1].domain = "evil.example"
    with pytest.raises(UnsupportedModel, match=r"evil\.example"):
        check_model(loop.SerializeToString(), LOOPS)


def test_graphs_do_not_nest_without_end() -> None:
    graph = field(2, b"innermost")
    for _ in range(50):
        attribute = field(1, b"body") + field(6, graph)
        graph = field(1, field(4, b"Loop") + field(5, attribute))
    with pytest.raises(UnsupportedModel, match="nests"):
        check_model(field(7, graph), LOOPS)


@pytest.mark.parametrize(
    "location", ["../weights", "/etc/passwd", "weights.bin", "", "file:///etc/passwd"]
)
def test_external_data_is_refused_wherever_it_lies(location: str) -> None:
    with pytest.raises(UnsupportedModel, match="another file"):
        check_model(models.external_data(location).SerializeToString())


def test_external_data_in_attributes_and_sparse_tensors() -> None:
    tensor = models.external_data("x").graph.initializer[0].SerializeToString()
    sparse = field(1, tensor)
    places = [
        graph_with(field(4, b"Constant") + field(5, field(5, tensor))),
        graph_with(field(4, b"Constant") + field(5, field(10, tensor))),
        graph_with(field(4, b"Constant") + field(5, field(22, sparse))),
        graph_with(field(4, b"Constant") + field(5, field(23, sparse))),
        field(7, field(15, sparse)),
        field(7, field(15, field(2, tensor))),
    ]
    for model in places:
        with pytest.raises(UnsupportedModel, match="another file"):
            check_model(model)


@pytest.mark.parametrize("location", [1, 2, (1 << 32) + 1, (1 << 64) - 1])
def test_a_data_location_is_refused_however_it_is_written(location: int) -> None:
    """An enum is 32 bits wide on the other side: 2**32 + 1 would be read as 1, external."""
    with pytest.raises(UnsupportedModel, match="another file"):
        check_model(graph_with(initializer=field(14, location)))


def test_repeated_values_of_which_the_last_wins_are_all_checked() -> None:
    with pytest.raises(UnsupportedModel, match="Loop"):
        check_model(graph_with(field(4, b"Loop") + field(4, b"Relu")))
    with pytest.raises(UnsupportedModel, match="Loop"):
        check_model(graph_with(field(4, b"Relu") + field(4, b"Loop")))
    with pytest.raises(UnsupportedModel, match="domain"):
        check_model(graph_with(field(4, b"Relu") + field(7, b"") + field(7, b"evil")))
    with pytest.raises(UnsupportedModel, match="Loop"):  # two graphs are merged into one
        check_model(graph_with(field(4, b"Relu")) + graph_with(field(4, b"Loop")))


def test_functions_training_and_placement_are_refused() -> None:
    graph = graph_with(field(4, b"Relu"))
    with pytest.raises(UnsupportedModel, match="local functions"):
        check_model(graph + field(25, field(1, b"Relu")))
    with pytest.raises(UnsupportedModel, match="training"):
        check_model(graph + field(20, b""))
    with pytest.raises(UnsupportedModel, match="device placement"):
        check_model(graph_with(field(4, b"Relu") + field(10, b"")))
    with pytest.raises(UnsupportedModel, match="overloaded"):
        check_model(graph_with(field(4, b"Relu") + field(8, b"mine")))


@pytest.mark.parametrize(
    "model",
    [
        graph_with(field(4, b"Relu")) + field(9, b""),
        field(7, field(1, field(4, b"Relu")) + field(99, b"")),
        graph_with(field(4, b"Relu") + field(11, b"")),
        graph_with(field(4, b"Relu") + field(5, field(536_870_911, b""))),
        graph_with(initializer=field(17, 1)),
        field(7, field(15, field(4, b""))),
    ],
    ids=["model", "graph", "node", "attribute", "tensor", "sparse tensor"],
)
def test_unknown_fields_fail_closed(model: bytes, request: pytest.FixtureRequest) -> None:
    where = request.node.callspec.id
    with pytest.raises(UnsupportedModel, match=f"unknown field [0-9]+ of a {where}"):
        check_model(model)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08",
        b"\x0a\xff\xff\xff\xff\x0f",  # longer than the file
        b"\x3a\x80",  # a size that does not end
        b"\x08" + b"\xff" * 11,  # a varint of more than 10 bytes
        b"\x3b\x3c",  # a group
        b"\x00\x00",  # field 0
        b"\x38\x01",  # the graph as a number
        varint(1 << 35) + b"\x00",  # a tag of more than 32 bits
        b"ORTM" * 50,
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_what_is_no_protobuf_is_refused(data: bytes) -> None:
    with pytest.raises(CamError):
        check_model(data)


@given(st.binary(max_size=300))
def test_noise_is_refused_or_empty(noise: bytes) -> None:
    try:
        check_model(noise)
    except (DataCorrupted, UnsupportedModel):
        return
    onnx.ModelProto.FromString(noise)


def is_within_bounds(model: onnx.ModelProto) -> bool:
    """The same rules stated over the parsed message, for a model without subgraphs."""
    nodes = list(model.graph.node)
    attributes = [attribute for node in nodes for attribute in node.attribute]
    tensors = [*model.graph.initializer, *(attribute.t for attribute in attributes)]
    return (
        all(node.domain in ("", "ai.onnx") and node.op_type in DETECTOR_OPERATORS for node in nodes)
        and all(t.data_location == 0 and not t.external_data for t in tensors)
        and not model.functions
        and not model.training_info
    )


def test_what_passes_is_within_bounds_for_the_real_parser_too() -> None:
    """50,000 mutations of real models against onnx's own parser: nothing slips through."""
    originals = [
        models.conv().SerializeToString(),
        models.custom_operator("ai.onnx").SerializeToString(),
        models.external_data("x")
        .SerializeToString()
        .replace(field(14, 1), field(14, 0))
        .replace(field(13, b""), b""),
    ]
    chance = random.Random(5)
    passed = 0
    for index in range(50_000):
        mutant = bytearray(originals[index % len(originals)])
        for _ in range(chance.choice([1, 1, 2, 3])):
            # Structure is in the first bytes and at the end; the middle is weights.
            position = chance.choice([chance.randrange(60), chance.randrange(len(mutant))])
            mutant[position] = chance.choice(
                [chance.randrange(256), mutant[position] ^ 1 << chance.randrange(8)]
            )
        try:
            check_model(bytes(mutant))
        except (DataCorrupted, UnsupportedModel):
            continue
        try:
            parsed = onnx.ModelProto.FromString(bytes(mutant))
        except DecodeError:
            continue
        passed += 1
        assert is_within_bounds(parsed), bytes(mutant).hex()
    assert passed > 1_000


def test_node_count_is_bounded() -> None:
    node = field(1, field(4, b"Relu"))
    check_model(field(7, node * 100))
    with pytest.raises(UnsupportedModel, match="more than"):
        check_model(field(7, node * (MAX_NODES + 1)))


def test_weights_cost_no_time() -> None:
    weights = numpy_helper.from_array(np.ones(8 << 20, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weights],
    )
    data = helper.make_model(graph).SerializeToString()
    start_s = time.process_time()
    check_model(data)
    assert time.process_time() - start_s < 0.05
