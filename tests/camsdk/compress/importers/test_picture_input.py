"""A grey network sees the mean of the three channels of a coloured picture."""

import numpy as np
import onnx
import pytest

from camsdk.compress.importers.picture_input import as_colour
from camsdk.compress.sessions import Session

RED, GREEN, BLUE = 30.0, 60.0, 210.0


@pytest.mark.parametrize("opset", [17, 18, 20])
@pytest.mark.parametrize(("shape", "axis"), [((1, 1, 2, 4), 1), ((1, 2, 4, 1), 3)])
def test_the_mean_of_a_coloured_picture(shape: tuple[int, ...], axis: int, opset: int) -> None:
    kinds = ",".join(str(length) for length in shape)
    grey = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : {opset}]>'
        f"net (float[{kinds}] x) => (float[{kinds}] y) {{ y = Identity(x) }}"
    )
    picture = np.stack([np.full((2, 4), value, np.float32) for value in (RED, GREEN, BLUE)])
    picture[:, 1, 2] = (0, 0, 255)
    picture = np.moveaxis(picture[None], 1, axis)
    (found,) = Session(as_colour(grey).SerializeToString()).infer(picture).values()
    assert found.shape == shape
    wanted = np.full((2, 4), 100, np.float32)
    wanted[1, 2] = 85
    np.testing.assert_allclose(np.asarray(found, np.float32).reshape(2, 4), wanted, rtol=1e-6)
