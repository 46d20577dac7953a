"""Tests mirror the package; what several of them need stands in `conftest.py` and `tiny.py`."""
