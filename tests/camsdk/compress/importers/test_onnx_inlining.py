"""Branches, loops and sequences that are decided beforehand compute what they did."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from camsdk.compress.importers.onnx_file import normalise
from camsdk.errors import ResourceExhausted, UnsupportedModel

DATA = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)

LOOP = """
   rounds = Constant <value = int64 {{{rounds}}}> ()
   go = Constant <value = bool {{1}}> ()
   last, rows = Loop (rounds, go, x) <body = body (int64 i, bool goes, float[2,6] held)
      => (bool goes_on, float[2,6] next, float[2,6] row) {{
         {condition}
         number = Cast <to = 1> (i)
         next = Add (held, number)
         row = Mul (held, number)
   }}>
   y = Add (last, rows)
"""
GOES, ENDS, COMPUTED = (
    "goes_on = Identity (goes)",
    "goes_on = Constant <value = bool {0}> ()",
    "s = ReduceSum <keepdims = 0> (held) goes_on = Cast <to = 9> (s)",
)

WHILE = """
   go = Constant <value = bool {{{value}}}> ()
   last, rows = Loop (, go, x) <body = body (int64 i, bool goes, float[2,6] held)
      => (bool goes_on, float[2,6] next, float[2,6] row) {{
         s = ReduceSum <keepdims = 0> (held)
         goes_on = Cast <to = 9> (s)
         next = Neg (held)
         row = Exp (held)
   }}>
   one = Constant <value = float[1,2,6] {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}> ()
   all = Concat <axis = 0> (rows, one)
   y = Add (last, all)
"""

BRANCHES = """
   yes = Constant <value = bool {{{value}}}> ()
   a = Neg (x)
   z = If (yes) <
      then_branch = positive () => (float[2,6] b) {{ a2 = Exp (a) b = Add (a2, x) }},
      else_branch = negative () => (float[2,6] b) {{
         no = Constant <value = bool {{0}}> ()
         b = If (no) <
            then_branch = one () => (float[2,6] c) {{ c = Abs (x) }},
            else_branch = two () => (float[2,6] c) {{ a2 = Abs (a) c = Sqrt (a2) }}
         >
      }}
   >
   y = Relu (z)
"""

LISTS = """
   two = Constant <value = int64[2] {2, 4}> ()
   last = Constant <value = int64 {-1}> ()
   parts = SplitToSequence <axis = 1> (x, two)
   wide = SequenceAt (parts, last)
   half = Sin (wide)
   more = SequenceInsert (parts, half)
   both = ConcatFromSequence <axis = 1> (more)
   pair = SequenceConstruct (both, both)
   count = SequenceLength (pair)
   number = Cast <to = 1> (count)
   stacked = ConcatFromSequence <axis = 0, new_axis = 1> (pair)
   y = Mul (stacked, number)
"""


def graph(body: str) -> onnx.ModelProto:
    """A model of one input and one output of whatever shape."""
    made = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[2,6] x) => (float y) {{ {body} }}'
    )
    made.graph.output[0].type.tensor_type.ClearField("shape")
    return made


def computed(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": DATA})[0])


@pytest.mark.parametrize(
    "body",
    [
        BRANCHES.format(value=1),
        BRANCHES.format(value=0),
        LOOP.format(rounds=3, condition=GOES),
        LOOP.format(rounds=3, condition=ENDS),
        WHILE.format(value=0),
        LISTS,
        "c = Constant <value = bool {1}> () y = If (c) <then_branch = t () => (float[2,6] x) {}>",
    ],
    ids=[
        "then",
        "else of else",
        "loop",
        "loop that ends",
        "loop that never begins",
        "sequences",
        "branch that makes nothing",
    ],
)
def test_what_is_decided_beforehand_becomes_plain(body: str) -> None:
    made = graph(body)
    expected = computed(made) if "{}>" not in body else DATA
    found = normalise(made)
    operators = {node.op_type for node in found.graph.node}
    assert not {item for item in operators if item in ("If", "Loop") or "Sequence" in item}
    np.testing.assert_allclose(computed(found), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("rounds", [0, 2])
def test_an_output_that_nobody_reads_is_no_input_that_is_left_out(rounds: int, place: int) -> None:
    body = LOOP.format(rounds=rounds, condition=GOES)
    top = "top = Constant <value = float {0.1}> () y = Clip (x, , top)"
    made = graph(body.replace("y = Add (last, rows)", top))
    (loop,) = (node for node in made.graph.node if node.op_type == "Loop")
    loop.output[place] = ""
    np.testing.assert_array_equal(computed(normalise(made)), np.minimum(DATA, np.float32(0.1)))


@pytest.mark.parametrize("length", [-1, 1 << 40])
def test_rows_of_no_possible_length_are_refused_with_their_loop(length: int) -> None:
    made = graph(LOOP.format(rounds=0, condition=GOES))
    (loop,) = (node for node in made.graph.node if node.op_type == "Loop")
    row = loop.attribute[0].g.output[2]
    row.type.tensor_type.shape.dim[0].dim_value = length
    with pytest.raises(UnsupportedModel, match=r"\(Loop\) collects rows of unknown shape"):
        normalise(made)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (LOOP.format(rounds=3, condition=COMPUTED), r"\(Loop\) has an end that is computed"),
        (LOOP.format(rounds=0, condition=GOES).replace("[2,6] row)", "[N,6] row)"),
         r"\(Loop\) collects rows of unknown shape, 'row', in no rounds"),
        (WHILE.format(value=1), r"\(Loop\) has no count of rounds"),
        ("s = ReduceSum <keepdims = 0> (x) n = Cast <to = 7> (s) l = SequenceConstruct (x, x) "
         "y = SequenceAt (l, n)", r"'y' \(SequenceAt\) has a place that is computed"),
        ("l = SplitToSequence (x) y = ConcatFromSequence <axis = 0> (l)", "as many tensors as"),
        ("l = SequenceConstruct (x) n = Constant <value = int64 {1}> () y = SequenceAt (l, n)",
         "takes number 1 of 1 tensors"),
    ],
)  # fmt: skip
def test_what_depends_on_the_picture_is_refused(body: str, match: str) -> None:
    with pytest.raises(UnsupportedModel, match=match):
        normalise(graph(body))


def test_a_loop_without_end_is_refused() -> None:
    with pytest.raises(ResourceExhausted, match="become more than"):
        normalise(graph(LOOP.format(rounds=1 << 40, condition=GOES)))


NESTED = """
   rounds = Constant <value = int64 {10}> ()
   go = Constant <value = bool {1}> ()
   y = Loop (rounds, go, x) <body = outer (int64 i, bool goes, float[2,6] held)
      => (bool goes, float[2,6] next) {
         next = Loop (rounds, go, held) <body = inner (int64 j, bool on, float[2,6] kept)
            => (bool on, float[2,6] after) {
               sum = Add (kept, stored)
               unit = Constant <value = float[6] {2, 3, 5, 7, 11, 13}> ()
               after = Add (sum, unit)
         }>
   }>
"""


def test_what_a_repeated_body_stores_enters_the_graph_once() -> None:
    made = graph(NESTED)
    outer = made.graph.node[2].attribute[0].g
    inner = outer.node[0].attribute[0].g
    inner.initializer.append(numpy_helper.from_array(DATA, "stored"))
    expected = computed(made)
    found = normalise(made)
    assert sum(node.op_type == "Add" for node in found.graph.node) == 200
    arrays = [numpy_helper.to_array(tensor) for tensor in found.graph.initializer]
    assert sum(array.shape == (2, 6) for array in arrays) == 1
    assert sum(array.shape == (6,) for array in arrays) == 1
    np.testing.assert_allclose(computed(found), expected, rtol=1e-5, atol=1e-5)
