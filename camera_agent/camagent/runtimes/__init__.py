"""Inference runtimes, one module each, imported on demand."""
