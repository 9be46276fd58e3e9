"""Codec between value types and protocol messages."""
