"""Descriptions from strangers are read strictly."""

from pathlib import Path

import pytest

from camsdk.cli.model_import import Wishes, _read_sections
from camsdk.errors import InvalidInput


def read(folder: Path, text: str) -> dict[str, object]:
    path = folder / "model.yaml"
    path.write_text(text, encoding="utf-8")
    return _read_sections(Wishes(description=path))


def test_a_description_is_read(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "input: {name: x, mean: [1, 2.5, -3], width: 32}\n"
        "output:\n  decoder: nanodet-gfl\n  strides: [8, 16]\nclasses: [person, 'yes']\n",
    )
    assert found == {
        "input": {"name": "x", "mean": [1, 2.5, -3], "width": 32},
        "output": {"decoder": "nanodet-gfl", "strides": [8, 16]},
        "classes": ["person", "yes"],
    }


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    """1 kB of it would be 10^9 names."""
    lines = ["  b0: &b0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 9):
        lines.append(f"  b{level}: &b{level} [{', '.join([f'*b{level - 1}'] * 10)}]")
    text = "input:\n" + "\n".join(lines) + "\nclasses: [*b8]\n"
    with pytest.raises(
        InvalidInput, match=r"model\.yaml: line 2: anchors and aliases are"
    ) as error:
        read(tmp_path, text)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("input: {1: 2}\nclasses: [a]", "line 1, input is not a text"),
        ("output: {strides: !!python/tuple [8]}\nclasses: [a]", "tags are refused"),
        (
            "inputs: {}\nclasses: [a]",
            "inputs is not known here (known are: input, output, classes)",
        ),
        ("input: [1]\nclasses: [a]", "line 1, input is not a mapping"),
        ("input: {width: 0x10}\nclasses: [a]", "input.width is not a decimal number"),
        ("input: {width: 010}\nclasses: [a]", "input.width is not a decimal number"),
        ("input: {mean: [0, -010]}\nclasses: [a]", "input.mean[1] is not a decimal number"),
        ("input: {width: 2024-01-01}\nclasses: [a]", "input.width is not a text"),
        ("classes: [a, [b, c]]", "line 1, classes[1] is no text"),
        ("classes: person", "classes is not a list"),
        ("classes: []", "needs the names of its classes"),
        ("", "the document is empty"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as error:
        read(tmp_path, text)
    assert words in str(error.value)
    assert "b, c" not in str(error.value)


def test_a_file_that_is_too_large_is_refused_with_the_limit_of_its_kind(tmp_path: Path) -> None:
    described, names = tmp_path / "model.yaml", tmp_path / "names.txt"
    cases = (
        (Wishes(description=described), described, "classes: [a]\n", 256),
        (Wishes(classes=names), names, "a\n", 1024),
    )
    for wishes, path, text, limit_kib in cases:
        path.write_text(text.ljust(limit_kib << 10, "#"))
        assert "a" in _read_sections(wishes)["classes"]
        path.write_text(text.ljust((limit_kib << 10) + 1, "#"))
        with pytest.raises(InvalidInput) as error:
            _read_sections(wishes)
        assert str(error.value) == f"{path} is larger than {limit_kib} KiB"
