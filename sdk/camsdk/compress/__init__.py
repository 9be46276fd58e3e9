"""Import, calibration, quantization and export of models."""

import os

# onnxruntime >= 1.29 sends usage data, with hashes of graph and weights, unless this is set before
# it is loaded; models and what they see are nobody else's business.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
