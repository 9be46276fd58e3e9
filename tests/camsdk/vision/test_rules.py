"""Rules files: what they mean, and that every mistake is named with its line and field."""

from dataclasses import FrozenInstanceError
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camsdk.errors import InvalidInput
from camsdk.vision.rules import CameraRules, LineRule, Rules, ZoneRule, parse_rules

FULL = """
version: 1
cameras:
  gate-2:
    lines:
      - name: entry
        from: [0.5, 0]
        to: [0.5, 1]
        in: left
        margin: 0.02
        classes: [person, bicycle]
        crops: true
    zones:
      - name: lawn
        polygon: [[0, 0.5], [1, 0.5], [1, 1], [0, 1]]
        dwell_s: 2.5
        classes: [person]
  "*":
    zones:
      - name: all
        polygon: [[0, 0], [1, 0], [1, 1]]
"""


def with_line(**changes: str) -> str:
    parts = {"name": "entry", "from": "[0.5, 0]", "to": "[0.5, 1]", "in": "left", **changes}
    body = "\n".join(f"        {key}: {value}" for key, value in parts.items() if value)
    return f"version: 1\ncameras:\n  '*':\n    lines:\n      -\n{body}\n"


def with_polygon(polygon: str) -> str:
    return f"version: 1\ncameras:\n  '*':\n    zones: [{{name: a, polygon: {polygon}}}]\n"


def test_full_file() -> None:
    rules = parse_rules(FULL)
    gate = rules.for_camera("gate-2")
    assert gate.lines == (
        LineRule("entry", (0.5, 0.0), (0.5, 1.0), "left", 0.02, ("bicycle", "person"), crops=True),
    )
    corners = ((0.0, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0))
    assert gate.zones == (ZoneRule("lawn", corners, 2.5, ("person",)),)
    with pytest.raises(FrozenInstanceError):
        gate.lines[0].name = "exit"  # type: ignore[misc] # frozen on purpose


def test_a_camera_takes_its_own_rules_or_the_shared_ones() -> None:
    rules = parse_rules(FULL)
    assert rules.for_camera("other").zones[0].name == "all"
    assert rules.for_camera("other").lines == ()
    assert [zone.name for zone in rules.for_camera("gate-2").zones] == ["lawn"]
    assert Rules({}).for_camera("gate-2") == CameraRules()


def test_digest_follows_the_meaning() -> None:
    digest = parse_rules(FULL).digest
    assert len(digest) == 64
    assert parse_rules("# a comment\n" + FULL.replace("[0.5, 0]", "[ 0.50, 0.0 ]")).digest == digest
    assert parse_rules(FULL.replace("[person, bicycle]", "[bicycle, person]")).digest == digest
    assert parse_rules(FULL.replace("2.5", "2.6")).digest != digest
    assert parse_rules(FULL.replace("in: left", "in: right")).digest != digest


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        ("a: b: c", "line 1: not valid YAML"),
        ("- a\n- b", "line 1, document is not a mapping"),
        ("version: 1", "lacks cameras"),
        ("version: 2\ncameras: {}", "line 1, version is not 1"),
        ("version: one\ncameras: {}", "line 1, version is not a number"),
        ("version: 1\ncameras: {a b: {}}", "line 2, cameras.a b is not a camera id"),
        ("version: 1\ncameras: {}\nzones: []", "line 3, zones is not known here"),
        ("version: 1\nversion: 1\ncameras: {}", "has version twice"),
        ("version: 1\ncameras: &a {}\n", "line 2: anchors and aliases are refused"),
        ("version: 1\ncameras: {a: &x {}, b: *x}", "line 2: anchors and aliases are refused"),
        ("version: !!python/name:os.system 1", "line 1: tags are refused"),
        ("version: 1\n---\nversion: 1", "not valid YAML"),
        ("version: 1\ncameras: " + "[" * 40 + "]" * 40, "nested deeper"),
        ("version: 1\ncameras: {a: {lines: {}}}", "cameras.a.lines is not a list"),
        (with_line(name="Entry"), "lines[0].name is 'Entry'"),
        (with_line(name="1.5"), "lines[0].name is not a text"),
        (with_line(to=""), "lacks to"),
        (with_line(to="[0.5, 0.001]"), "line 8, cameras.*.lines[0].to is at the line's start"),
        (with_line(to="[0.5, 1.01]"), "to[1] is 1.01, not between 0 and 1"),
        (with_line(to="[0.5, .nan]"), "to[1] '.nan' is not a decimal number"),
        (with_line(to="[0.5, -.inf]"), "to[1] '-.inf' is not a decimal number"),
        (with_line(to="[0.5, 1e400]"), "to[1] is not a number"),
        (with_line(to="[0.5, 0x1]"), "to[1] '0x1' is not a decimal number"),
        (with_line(to="[0.5, 01]"), "to[1] '01' is not a decimal number"),
        (with_line(to="[0.5, true]"), "to[1] is not a number"),
        (with_line(to="[0.5]"), "to has 1 entries, not 2"),
        (with_line(to="0.5"), "to is not a list"),
        (with_line(**{"in": "up"}), "in is 'up'"),
        (with_line(margin="0.3"), "margin is 0.3, not between 0 and 0.25"),
        (with_line(margins="0.1"), "lines[0].margins is not known here"),
        (with_line(crops="yes"), "crops is not true or false"),
        (with_line(classes="[]"), "classes has 0 entries, not 1 to 64"),
        (with_line(classes='["a\\nb"]'), "classes[0] is not a class name"),
        (with_line(classes="person"), "classes is not a list"),
        (with_polygon("[[0, 0], [1, 1]]"), "polygon has 2 entries, not 3 to 64"),
        (with_polygon("[[0, 0], [1, 1], [0.5, 0.5]]"), "polygon encloses nothing"),
        (with_polygon("[[0, 0], [1, 0.1], [1, 0], [0, 1]]"), "polygon crosses itself"),
        ("x" * 300_000, "larger than 256 KiB"),
        ("\x00", "not valid YAML"),
    ],
)
def test_mistakes_are_named(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rules(text)
    assert complaint in str(caught.value)


def test_a_name_is_taken_once_in_a_camera() -> None:
    two = FULL.replace("name: lawn", "name: entry")
    with pytest.raises(InvalidInput, match=r"line 14, .*zones\[0\]\.name 'entry' is taken"):
        parse_rules(two)


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    with pytest.raises(InvalidInput, match="aliases"):
        parse_rules("\n".join(lines))


@given(
    start=st.integers(0, len(FULL)),
    length=st.integers(0, 40),
    middle=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20),
)
def test_damage_brings_no_other_error(start: int, length: int, middle: str) -> None:
    text = FULL[:start] + middle + FULL[start + length :]
    try:
        rules = parse_rules(text)
    except InvalidInput:
        return
    assert len(rules.digest) == 64


def test_the_rules_of_the_demo_are_valid() -> None:
    text = resources.files("camsdk.cli").joinpath("demo_rules.yaml").read_text()
    rules = parse_rules(text).for_camera("any")
    assert [line.name for line in rules.lines] == ["entry"]
    assert [zone.name for zone in rules.zones] == ["lawn"]
