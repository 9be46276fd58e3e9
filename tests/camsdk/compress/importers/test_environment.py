"""A half-made environment is never used, and what pip cannot do is said."""

import fcntl
from pathlib import Path

import pytest

from camsdk.compress.importers import environment
from camsdk.errors import CamError, DeadlineExceeded, Unavailable


def make_interrupted(root: Path) -> Path:
    """What a process that was killed while pip ran leaves behind."""
    part = environment.location(root).with_suffix(".part")
    (part / "bin").mkdir(parents=True)
    (part / "bin" / "python").write_text("half", encoding="utf-8")
    return part


@pytest.fixture
def nothing_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes real environments, into which pip installs its own version of itself: nothing."""
    monkeypatch.setattr(environment, "REQUIREMENTS", ("pip", "pip"))
    monkeypatch.setattr(environment, "FREE_BYTES", 1 << 20)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_to_install")
def test_an_interrupted_environment_is_made_anew(tmp_path: Path) -> None:
    part = make_interrupted(tmp_path)
    told: list[str] = []
    python = environment.ensure(root=tmp_path, on_progress=told.append)
    assert python.is_relative_to(environment.location(tmp_path))
    assert not part.exists()
    assert any("installing" in text for text in told)
    told.clear()
    assert environment.ensure(root=tmp_path, on_progress=told.append) == python
    assert not told  # it was there


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_to_install")
def test_what_pip_cannot_install_is_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "REQUIREMENTS", ("pip==0.0.0.0", "pip"))
    with pytest.raises(Unavailable, match="cannot be installed") as caught:
        environment.ensure(root=tmp_path)
    assert "onnx file" in caught.value.hint
    assert not environment.location(tmp_path).exists()


def test_only_one_process_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "LOCK_TIMEOUT_S", 0.0)
    monkeypatch.setattr(environment, "_POLL_S", 0.01)
    told: list[str] = []
    with environment.location(tmp_path).with_suffix(".lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DeadlineExceeded, match="another process"):
            environment.ensure(root=tmp_path, on_progress=told.append)


def test_a_full_disk_is_said_before_pip_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "FREE_BYTES", 1 << 60)
    with pytest.raises(CamError, match="GiB free"):
        environment.ensure(root=tmp_path)
    assert not list(tmp_path.glob("*.part"))


def test_other_requirements_get_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.location()
    monkeypatch.setattr(environment, "REQUIREMENTS", ("other==1",))
    assert environment.location() != before
