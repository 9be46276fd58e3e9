"""ONNX graphs: their layers and costs, their optimisation, and the QDQ form of quantized ones."""
