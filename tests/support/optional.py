"""Packages of extras: a test that needs one is skipped where it is missing."""

import pytest


def installed(name):
    try:
        return __import__(name, fromlist=["x"])
    except (ImportError, RuntimeError) as why:  # torchvision without its C library raises RuntimeError
        pytest.skip(f"{name} does not import here ({why}): extra rewards")
