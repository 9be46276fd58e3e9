"""What an ONNX file may hold before a runtime is allowed to see it, checked without onnx.

The check walks the wire format (``camsdk.artifact.protobuf_wire``) along the message types of
``onnx.proto`` and fails closed: a field that is not named below is refused, so nothing is skipped
that a runtime might act upon. Refused are

- operators of other domains than ONNX's own and operators outside an allow-list: no control flow,
  no randomness, no strings, sequences, decoders of other formats, nothing that keeps state;
- external data, by whatever path: a model is only what its bundle holds, and was signed;
- local functions, training information, device placement and other extensions.

It bounds what a model can name, not what it can use: time and memory are the runtime's to limit.
Where protobuf lets the last of several values win, every one of them is checked.
"""

from typing import Final

from camsdk.artifact.protobuf_wire import as_message, fields
from camsdk.errors import DataCorrupted, UnsupportedModel

DETECTOR_OPERATORS: Final = frozenset(
    """
    Abs Acos Add And ArgMax ArgMin Asin Atan AveragePool BatchNormalization Cast Ceil Celu Clip
    Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum DepthToSpace
    DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand Flatten Floor
    Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
    GridSample GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization IsNaN LRN
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul MatMulInteger Max MaxPool
    Mean Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QLinearConv
    QLinearMatMul QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round
    ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh Tile TopK Transpose Trilu Unsqueeze Upsample
    Where Xor
    """.split()  # noqa: SIM905 - a table to read, not a hundred quoted lines
)
"""Of ONNX's own domain: what detection networks are exported with, and all that importers emit. All
are pure functions."""

MAX_NODES: Final = 20_000
MAX_DEPTH: Final = 4
_OWN_DOMAINS: Final = (b"", b"ai.onnx")
_NAME_BYTES: Final = 128

# Field numbers of onnx.proto that carry no model, tensor or graph: names, shapes, scalars, prose.
_MODEL_PLAIN: Final = frozenset((1, 2, 3, 4, 5, 6, 8, 14))
_GRAPH_PLAIN: Final = frozenset((2, 10, 11, 12, 13, 14, 16))
_NODE_PLAIN: Final = frozenset((1, 2, 3, 6, 9))
_ATTRIBUTE_PLAIN: Final = frozenset((1, 2, 3, 4, 7, 8, 9, 13, 14, 15, 20, 21))
_TENSOR_PLAIN: Final = frozenset((1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16))
_SPARSE_PLAIN: Final = frozenset((3,))


def check_model(data: bytes, operators: frozenset[str] = DETECTOR_OPERATORS) -> None:
    """Refuse a model that names anything beyond these operators and its own bytes.

    Args:
        data: A serialized ``onnx.ModelProto``.
        operators: Allowed operators of ONNX's own domain.

    Raises:
        DataCorrupted: Not a protobuf message, or without a graph.
        UnsupportedModel: It names something that is not allowed; says what.
    """
    checker = _Checker(operators)
    checker.model(memoryview(data))


class _Checker:
    """Walks the messages; counts nodes over all graphs."""

    def __init__(self, operators: frozenset[str]) -> None:
        self._operators = operators
        self._node_count = 0

    def model(self, data: memoryview) -> None:
        has_graph = False
        for number, value in fields(data):
            if number == 7:
                has_graph = True
                self._graph(as_message(value), depth=0)
            elif number not in _MODEL_PLAIN:
                raise _refused({20: "training information", 25: "local functions"}, number, "model")
        if not has_graph:
            raise DataCorrupted("the model file is not an ONNX model: it has no graph")

    def _graph(self, data: memoryview, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UnsupportedModel(f"the model nests graphs deeper than {MAX_DEPTH}")
        for number, value in fields(data):
            if number == 1:
                self._node(as_message(value), depth)
            elif number == 5:
                _check_tensor(as_message(value))
            elif number == 15:
                _check_sparse_tensor(as_message(value))
            elif number not in _GRAPH_PLAIN:
                raise _refused({}, number, "graph")

    def _node(self, data: memoryview, depth: int) -> None:
        self._node_count += 1
        if self._node_count > MAX_NODES:
            raise UnsupportedModel(f"the model has more than {MAX_NODES} nodes")
        has_operator = False
        # The domain first: of a foreign operator it says more than the name.
        for number, value in sorted(fields(data), key=lambda field: field[0] != 7):
            if number == 4:
                has_operator = True
                self._check_operator(as_message(value))
            elif number == 5:
                self._attribute(as_message(value), depth)
            elif number == 7:
                _check_domain(as_message(value))
            elif number == 8 and len(as_message(value)):
                raise UnsupportedModel("the model uses overloaded functions")
            elif number not in _NODE_PLAIN and number != 8:
                raise _refused({10: "device placement"}, number, "node")
        if not has_operator:
            raise DataCorrupted("the model has a node without operator")

    def _check_operator(self, name: memoryview) -> None:
        operator = bytes(name[:_NAME_BYTES]).decode("ascii", "backslashreplace")
        if len(name) > _NAME_BYTES or operator not in self._operators:
            raise UnsupportedModel(
                f"the model uses the operator {operator}, which is not allowed",
                "export it without: devices run a list of pure operators, none that is not on it",
            )

    def _attribute(self, data: memoryview, depth: int) -> None:
        for number, value in fields(data):
            if number in (5, 10):
                _check_tensor(as_message(value))
            elif number in (6, 11):
                self._graph(as_message(value), depth + 1)
            elif number in (22, 23):
                _check_sparse_tensor(as_message(value))
            elif number not in _ATTRIBUTE_PLAIN:
                raise _refused({}, number, "attribute")


def _check_domain(name: memoryview) -> None:
    if bytes(name[:_NAME_BYTES]) not in _OWN_DOMAINS:
        domain = bytes(name[:_NAME_BYTES]).decode("ascii", "backslashreplace")
        raise UnsupportedModel(
            f"the model uses an operator of the domain {domain}, which is not allowed",
            "export it with ONNX's own operators",
        )


def _check_tensor(data: memoryview) -> None:
    for number, value in fields(data):
        # 14 is data_location: protobuf takes an enum modulo 2**32, so anything but 0 is refused.
        if number == 13 or (number == 14 and value != 0):
            raise UnsupportedModel(
                "the model keeps weights in another file", "save it with all data in one file"
            )
        if number not in _TENSOR_PLAIN and number != 14:
            raise _refused({3: "segmented tensors"}, number, "tensor")


def _check_sparse_tensor(data: memoryview) -> None:
    for number, value in fields(data):
        if number in (1, 2):
            _check_tensor(as_message(value))
        elif number not in _SPARSE_PLAIN:
            raise _refused({}, number, "sparse tensor")


def _refused(names: dict[int, str], number: int, where: str) -> UnsupportedModel:
    what = names.get(number, f"the unknown field {number} of a {where}")
    return UnsupportedModel(f"the model has {what}, which is not allowed")
