"""The shapes that a caller gives for inputs: one wording of what is wrong with them."""

from collections.abc import Collection, Mapping, Sequence

from camsdk.errors import InvalidInput


def check_names(given: Mapping[str, tuple[int, ...]], inputs: Collection[str]) -> None:
    """Refuse a shape for what is no input.

    Raises:
        InvalidInput: Names it, and the inputs.
    """
    unknown = sorted(set(given) - set(inputs))
    if unknown:
        raise InvalidInput(
            f"a shape is given for {unknown[0]!r}, which is no input",
            f"the inputs are {', '.join(sorted(inputs)) or 'none'}",
        )


def lacks_shape(name: str, shape: Sequence[int] | None) -> InvalidInput:
    """The error of an input whose shape is free, empty or too large.

    Args:
        name: Of the input.
        shape: What is known of it; a free length is 0 or -1.
    """
    known = "no shape" if not shape else f"the free or too large shape {tuple(shape)}"
    return InvalidInput(
        f"input {name!r} has {known}",
        f"give one, such as --input {name}:1x3x224x224 or, in Python, "
        f"input_shapes={{{name!r}: (1, 3, 224, 224)}}",
    )
