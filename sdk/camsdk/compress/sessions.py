"""A model in this process, for calibration and measurement. Devices run models in a child process
of their own (``camagent.runtimes``); here the model is our own work."""

from collections.abc import Mapping

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as binding

from camsdk.errors import RuntimeFailure

Array = NDArray[np.generic]

ENGINE_FAILURES: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    # Its own errors have no base of their own below Exception.
    *(
        cls
        for cls in vars(binding).values()
        if isinstance(cls, type) and issubclass(cls, Exception)
    ),
)
"""What onnxruntime raises."""


class Session:
    """One onnxruntime session with one thread, so that times compare.

    Args:
        model: A serialized ONNX model of our own making.

    Raises:
        RuntimeFailure: It cannot be loaded.
    """

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only: they come as exceptions
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except ENGINE_FAILURES as error:
            raise RuntimeFailure(f"the model cannot be loaded: {error}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._input = self._session.get_inputs()[0].name

    def infer(self, tensor: Array) -> Mapping[str, Array]:
        """Outputs by name.

        Raises:
            RuntimeFailure: The input does not fit, or the model failed.
        """
        try:
            values = self._session.run(self._outputs, {self._input: tensor})
        except ENGINE_FAILURES as error:
            raise RuntimeFailure(f"the model cannot be run: {error}") from error
        return dict(zip(self._outputs, values, strict=True))
