"""Integer codes times scales: what every method of quantization makes of a weight tensor."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camsdk.compress.options import CodeSet
from camsdk.errors import InvalidInput


@dataclass(frozen=True)
class CodedTensor:
    """A weight tensor as ``codes * scale``.

    Attributes:
        codes: int8, the weight's shape; each in ``code_set.levels``, or 0 where pruned.
        scale: float32 above 0; shape () for the whole tensor, or (filters,) along axis 0.
        code_set: What the codes were chosen from.
    """

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    code_set: CodeSet

    def __post_init__(self) -> None:
        if self.scale.shape not in ((), self.codes.shape[:1]):
            raise InvalidInput(
                f"scales of shape {self.scale.shape} do not fit codes of shape {self.codes.shape}"
            )

    @property
    def values(self) -> NDArray[np.float32]:
        """The weights that the codes stand for, float32, same shape."""
        scale = self.scale.reshape(self.scale.shape + (1,) * (self.codes.ndim - self.scale.ndim))
        return self.codes.astype(np.float32) * scale

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return float(np.mean(self.codes == 0))
