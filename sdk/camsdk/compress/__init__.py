"""Import, calibration, quantization and export of models."""
