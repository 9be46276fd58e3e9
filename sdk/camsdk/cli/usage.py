"""What is wrong with a command line beyond what its parser sees."""

from collections.abc import Iterator
from contextlib import contextmanager

from camsdk.errors import InvalidInput


class WrongUsage(InvalidInput):
    """Options that cannot be meant so; ``camctl`` ends with 2."""


@contextmanager
def usage() -> Iterator[None]:
    """What is found to be invalid here is the command line.

    Raises:
        WrongUsage: In place of InvalidInput.
    """
    try:
        yield
    except InvalidInput as error:
        raise WrongUsage(error.message, error.hint) from error
