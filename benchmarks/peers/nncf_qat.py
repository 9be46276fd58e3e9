"""NNCF (OpenVINO, Apache-2.0): its quantize(), then its fake quantizers are trained.

NNCF 3 refuses other than 8 bits here ("incompatible with HW capabilities as specified in HW config
type 'ANY'"), so it takes part in the W8A8 rows only.
"""

import nncf
from torch import Tensor, nn

from peers.recipe import Contender, Row


def prepare(module: nn.Module, row: Row, edges: tuple[str, ...], example: Tensor) -> Contender:
    """Everything at 8 bits."""
    module.eval()
    calibration = nncf.Dataset([example[i : i + 64] for i in range(0, len(example), 64)])
    quantized = nncf.quantize(module, calibration, subset_size=4, fast_bias_correction=True)
    return Contender(quantized)
