"""Whatever a stranger's file is, an import ends soon, in a typed error that says what to do.

Every case goes through ``import_model``. The child is a fork (``support.import_forks``) with the
limits of the real one, so that hundreds of files cost seconds and each one's use is measured; one
good file of each format takes the real child.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from camsdk.compress.importers import sandbox
from camsdk.compress.importers.detect import ImportOptions, detect, import_model
from camsdk.compress.sessions import Session
from camsdk.errors import (
    CamError,
    DataCorrupted,
    InvalidInput,
    NotFound,
    ResourceExhausted,
    UnsupportedModel,
)
from support.foreign_models import FRAMEWORKS, Foreign, foreign
from support.hostile_case import Case
from support.hostile_models import CASES
from support.import_forks import Forks

CPU_S = 2.0
"""Of one case; the slowest takes half a second where nothing else runs."""

MEMORY_BYTES = 256 << 20
"""Of one case, over what the loaded libraries take."""

REFUSALS = (DataCorrupted, UnsupportedModel, InvalidInput, ResourceExhausted, NotFound)


@pytest.fixture(scope="module")
def server() -> Iterator[Forks]:
    with Forks() as forks:
        yield forks


@pytest.fixture
def forks(server: Forks, monkeypatch: pytest.MonkeyPatch) -> Forks:
    monkeypatch.setattr(sandbox, "run_limited", server.run_limited)
    return server


def check_bounds(forks: Forks, what: str) -> None:
    assert forks.seconds < CPU_S, what
    assert forks.memory_bytes < MEMORY_BYTES, what


def refused(
    forks: Forks, path: Path, options: ImportOptions, framework: str | None, what: str
) -> CamError:
    """The error of an import, after what must be true of every refusal was checked."""
    with pytest.raises(REFUSALS) as caught:
        import_model(path, framework, options)  # type: ignore[arg-type] # one of them
    error = caught.value
    assert not is_crash(error), f"{what}: {error}"
    assert error.hint, f"{what}: no way out: {error}"
    assert len(str(error)) < 2000, f"{what}: too long: {error}"
    check_bounds(forks, what)
    return error


def is_crash(error: CamError) -> bool:
    """Whether the child ended in something else than a typed error."""
    return error.message.startswith("the importer")


def refusal_or_none(model: Foreign, framework: str) -> CamError | None:
    try:
        import_model(model.files[0], framework, model.options())  # type: ignore[arg-type] # one of them
    except CamError as error:
        return error
    return None


def computed(model: Foreign, options: ImportOptions, framework: str | None) -> None:
    """The import computes what the framework did."""
    found = import_model(model.files[0], framework, options)  # type: ignore[arg-type] # one of them
    output = found.graph.output[0].name
    values = np.asarray(Session(found.SerializeToString()).infer(model.data)[output], np.float32)
    np.testing.assert_allclose(values.reshape(-1), model.expected.reshape(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_good_file_passes_the_real_child(framework: str, tmp_path: Path) -> None:
    model = foreign(framework, tmp_path)
    assert detect(model.files[0]) == framework
    computed(model, model.options(), None)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_good_file_stays_within_the_bounds(framework: str, tmp_path: Path, forks: Forks) -> None:
    model = foreign(framework, tmp_path)
    computed(model, model.options(), framework)
    check_bounds(forks, framework)


def places(size: int) -> list[int]:
    return [0, 1, 8, size // 100, size // 4, size // 2, size * 3 // 4, size - 2]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_file_cut_anywhere_is_refused(framework: str, tmp_path: Path, forks: Forks) -> None:
    model = foreign(framework, tmp_path)
    for path in model.files:
        whole = path.read_bytes().rstrip(b"\n")
        for place in places(len(whole)):
            path.write_bytes(whole[:place])
            for chosen in (None, framework):
                what = f"{path.name} cut at {place} of {len(whole)}, --format {chosen}"
                refused(forks, model.files[0], model.options(), chosen, what)
        path.write_bytes(whole)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_noise_behind_the_right_start_is_refused(
    framework: str, tmp_path: Path, forks: Forks
) -> None:
    model = foreign(framework, tmp_path)
    noise = np.random.default_rng(7)
    for path in model.files:
        whole = path.read_bytes()
        for kept in (0, 4, 64):
            path.write_bytes(whole[:kept] + noise.bytes(20_000))
            what = f"{path.name}: {kept} bytes, then noise"
            refused(forks, model.files[0], model.options(), framework, what)
        path.write_bytes(whole)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_damaged_bytes_give_a_typed_error_or_a_model(
    framework: str, tmp_path: Path, forks: Forks
) -> None:
    model = foreign(framework, tmp_path)
    random = np.random.default_rng(11)
    for path in model.files:
        whole = path.read_bytes()
        for round_ in range(12):
            data = bytearray(whole)
            for _ in range(1 + round_ % 4):
                data[random.integers(len(data))] ^= 1 << random.integers(8)
            path.write_bytes(data)
            found = refusal_or_none(model, framework)
            assert found is None or not is_crash(found), str(found)
            check_bounds(forks, f"{path.name}, round {round_}")
        path.write_bytes(whole)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_hostile_file_is_refused(case: Case, tmp_path: Path, forks: Forks) -> None:
    model = foreign(case.framework, tmp_path)
    case.damage(model)
    error = refused(forks, model.files[0], model.options(), case.framework, str(case))
    for word in case.words:
        assert word in str(error), f"{word!r} is not in {error}"
