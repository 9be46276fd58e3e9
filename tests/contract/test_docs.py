"""What the documents show works: commands exist, rules parse, links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from camsdk.artifact.bundle import pack, read_unverified
from camsdk.cli.main import root_command
from camsdk.compress.latency import load_profile
from camsdk.vision.rules import parse_rules
from support.engines import leave_only_our_own
from support.small_detector import small_detector

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands_of(page: Path) -> list[str]:
    """Lines of code blocks, and code within text, that call camctl with a command."""
    text = page.read_text()
    blocks = re.findall(r"^(?:    )?(camctl .+)$", text, re.MULTILINE)
    spans = re.findall(r"`(camctl [^`\n]+)`", text)
    lines = [part for line in blocks + spans for part in line.split("&&")]
    return [line.partition("#")[0].strip() for line in lines]


def check(line: str) -> None:
    """The command exists, and so does each option."""
    words = shlex.split(line)[1:]
    command = root_command()
    while words and (children := getattr(command, "commands", None)):
        for name in words[0].split("|"):
            assert name in children or name.startswith("-"), f"{line}: no command {name}"
        command = children.get(words.pop(0).split("|")[0], command)
    known = {name for parameter in command.params for name in parameter.opts}
    known |= {name for parameter in command.params for name in parameter.secondary_opts}
    known |= {"--help", "--version", "-v", "-vv", "--install-completion"}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{line}: no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page):
    for line in commands_of(page):
        check(line)


def test_the_readme_shows_commands():
    assert len(commands_of(ROOT / "README.md")) > 12


def test_the_rules_of_the_page_parse():
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/rules.md").read_text(), re.DOTALL)
    rules = parse_rules(example).for_camera("gate-1")
    assert [line.name for line in rules.lines] == ["entry"]
    assert rules.lines[0].crops


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs/compression.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_profile_of_the_page_is_read(tmp_path):
    (example,) = blocks("yaml")
    (tmp_path / "device.yaml").write_text(example)
    profile = load_profile(tmp_path / "device.yaml")
    assert (profile.device, profile.provenance) == ("fpga-zu3", "model")
    assert profile.ms_by_layer["Conv_0"][8] == 0.14
    assert profile.ns_per_mac["Conv"][4] == 0.03


def test_the_program_of_the_page_compresses(tmp_path, monkeypatch):
    leave_only_our_own(monkeypatch)
    monkeypatch.chdir(tmp_path)
    source = small_detector()
    (tmp_path / "float.cam").write_bytes(pack(source.manifest, source.members, None))
    (program,) = blocks("python")
    exec(compile(program, "compression.md", "exec"), {})
    manifest = read_unverified((tmp_path / "w4.cam").read_bytes()).manifest
    assert manifest.precision == "w4a8"
    assert manifest.reference in (tmp_path / "w4.html").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
