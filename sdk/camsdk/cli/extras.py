"""What a plain install leaves out, and how to get it: a sentence instead of a traceback."""

from importlib.util import find_spec
from typing import Final

from camsdk.errors import NotFound

EXTRA_OF: Final = {
    "alembic": "cloud",
    "faiss": "cloud",
    "fsspec": "cloud",
    "sqlalchemy": "cloud",
    "onnx": "model",
    "onnxslim": "model",
    "torch": "compress",
    "torch_pruning": "compress",
    "MNN": "mnn",
}
"""Importable name to the extra that brings it."""


def explain(error: ModuleNotFoundError) -> NotFound | None:
    """The error for a module that an extra brings; None if it is none of these."""
    module = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(module)
    return None if extra is None else _missing(module, extra)


def demand(*modules: str) -> None:
    """Checks before any work that modules can be imported.

    Raises:
        NotFound: One cannot; says which extra brings it.
    """
    for module in modules:
        if find_spec(module) is None:
            raise _missing(module, EXTRA_OF[module])


def _missing(module: str, extra: str) -> NotFound:
    return NotFound(
        f"{module} is not installed, which this command needs",
        f"install the extra {extra!r}: pip install 'camplatform[{extra}]',"
        f" or pip install '.[{extra}]' in a checkout",
    )
