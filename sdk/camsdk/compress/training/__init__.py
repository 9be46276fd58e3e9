"""Compression by training: low bits, pruning and distillation in one schedule. Needs torch."""
