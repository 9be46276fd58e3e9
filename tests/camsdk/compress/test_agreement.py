"""What does not compare is refused before anything runs."""

from dataclasses import replace

import pytest

from camsdk.compress.agreement import evaluate
from camsdk.compress.footage import Footage
from camsdk.errors import InvalidInput
from support.small_detector import small_detector


def test_models_of_other_classes_do_not_compare() -> None:
    draft, nothing = small_detector(), Footage((), ())
    first, second = draft.manifest.classes
    for others in ((first, "zebra"), (first, second, "zebra"), (second, first)):
        other = replace(draft, manifest=draft.manifest.model_copy(update={"classes": others}))
        with pytest.raises(InvalidInput, match="do not know the same classes"):
            evaluate(draft, other, nothing, ())
