"""Pinned third-party data, models and video, fetched by name and sha256."""
