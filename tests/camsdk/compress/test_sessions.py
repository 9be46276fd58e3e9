import numpy as np
import pytest

from camsdk.compress.sessions import Session
from camsdk.errors import RuntimeFailure
from support import models


@pytest.mark.parametrize("model", [b"", b"garbage", models.conv().SerializeToString()[:-20]])
def test_what_is_no_model_is_refused(model: bytes) -> None:
    with pytest.raises(RuntimeFailure, match="cannot be loaded"):
        Session(model)


def test_an_input_that_does_not_fit() -> None:
    session = Session(models.conv(32).SerializeToString())
    assert session.infer(np.zeros((1, 3, 32, 32), np.float32))["y"].shape == (1, 4, 2, 2)
    with pytest.raises(RuntimeFailure, match="cannot be run"):
        session.infer(np.zeros((1, 3, 32, 31), np.float32))
