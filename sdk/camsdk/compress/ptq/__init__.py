"""Quantization after training: with a few inputs, or with none."""
