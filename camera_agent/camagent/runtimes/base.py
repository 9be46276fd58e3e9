"""What every runtime is to the agent."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.generic]


class Runtime(Protocol):
    """One loaded model. Calls from several threads are served one after the other."""

    def infer(self, tensor: Tensor) -> dict[str, Tensor]:
        """Run the model on one input.

        Args:
            tensor: Of the dtype and shape that the manifest's input states.

        Returns:
            Output tensors by name; the caller owns them.

        Raises:
            InvalidInput: Wrong dtype or shape.
            RuntimeFailure: The model failed, ran too long or took too much memory. The runtime has
                recovered or will with the next call.
        """
        ...

    @property
    def cpu_time_s(self) -> float:
        """CPU seconds that this model has cost so far, loading and restarts included."""
        ...

    @property
    def rss_bytes(self) -> int:
        """Resident memory of whatever holds the model beside this process; 0 if nothing does."""
        ...

    def close(self) -> None:
        """Free everything. May be called more than once."""
        ...
