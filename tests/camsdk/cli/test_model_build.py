"""``camctl model import``: a published model becomes a draft."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Camctl


def test_mistakes_are_a_sentence_and_a_way_out(camctl: "Camctl", tmp_path: Path) -> None:
    outcome = camctl("model", "import", "--input-size", "big")
    assert outcome.code == 1
    assert "no size" in outcome.err
    assert camctl("model", "import", "unknown-net").code == 2


def test_the_help_says_which_version_an_import_gets(camctl: "Camctl") -> None:
    assert "[default: 1]" in camctl("model", "import", "--help").out
