"""Which rules are in force: the cloud's, kept over restarts, else the local file's."""

from pathlib import Path

import pytest

from camagent.rulebook import RuleBook
from camsdk.errors import InvalidInput
from camsdk.vision.rules import NO_RULES, parse_rules

RULES = """
version: 1
cameras:
  cam:
    lines:
      - {name: NAME, from: [0.5, 0.0], to: [0.5, 1.0], in: left}
"""
LOCAL, CLOUD = RULES.replace("NAME", "local"), RULES.replace("NAME", "cloud")


def test_none_without_a_file(tmp_path: Path) -> None:
    assert RuleBook(tmp_path, None).rules == NO_RULES


def test_the_cloud_wins_and_is_remembered(tmp_path: Path) -> None:
    local = tmp_path / "mine.yaml"
    local.write_text(LOCAL)
    book = RuleBook(tmp_path, local)
    assert book.rules == parse_rules(LOCAL)
    assert book.take(CLOUD)
    assert not book.take(CLOUD + "# only a comment")
    assert RuleBook(tmp_path, local).rules == parse_rules(CLOUD)


def test_rules_that_do_not_parse_change_nothing(tmp_path: Path) -> None:
    book = RuleBook(tmp_path, None)
    book.take(CLOUD)
    assert not book.take("version: [")
    assert book.rules == parse_rules(CLOUD)


def test_a_damaged_memory_falls_back_to_the_file(tmp_path: Path) -> None:
    local = tmp_path / "mine.yaml"
    local.write_text(LOCAL)
    (tmp_path / "rules.yaml").write_bytes(b"\xff\xfe")
    assert RuleBook(tmp_path, local).rules == parse_rules(LOCAL)


def test_a_missing_local_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.yaml"):
        RuleBook(tmp_path, tmp_path / "none.yaml")


def test_rules_hold_though_a_full_disk_does_not_keep_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = RuleBook(tmp_path, None)
    (tmp_path / "rules.yaml").mkdir()
    assert book.take(CLOUD)  # else nobody would give them to the cameras
    assert book.rules == parse_rules(CLOUD)
    assert "cannot be kept" in caplog.text
