"""The error table is complete in both directions."""

import grpc

from camsdk import errors
from camsdk.errors import ERROR_BY_REASON, WIRE_ERRORS, CamError


def subclasses(cls: type[CamError]) -> set[type[CamError]]:
    """All classes below ``cls``."""
    direct = set(cls.__subclasses__())
    return direct.union(*(subclasses(child) for child in direct))


def own_errors() -> set[type[CamError]]:
    return {cls for cls in subclasses(CamError) if cls.__module__ == errors.__name__}


def test_every_error_has_a_row():
    assert own_errors() == set(WIRE_ERRORS)


def test_every_row_names_a_grpc_status_and_a_sentence():
    for cls, row in WIRE_ERRORS.items():
        assert hasattr(grpc.StatusCode, row.grpc_status), cls
        assert row.public.endswith("."), cls


def test_reasons_are_unique_so_the_client_can_map_back():
    assert len(ERROR_BY_REASON) == len(WIRE_ERRORS)


def test_the_tree_in_the_docstring_names_every_class():
    for cls in own_errors():
        assert cls.__name__ in (errors.__doc__ or "")


def test_a_hint_is_part_of_the_text():
    assert str(CamError("No file.", "give one")) == "No file. (give one)"
    assert str(CamError("No file.")) == "No file."
