"""Rollouts: how a new artifact reaches a fleet, wave by wave, and how it comes back.

``plan`` holds the values, ``engine`` decides (pure), ``store`` keeps, ``service`` drives.
"""
