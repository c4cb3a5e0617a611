"""Tests of training; without torch each says why it is skipped."""

from importlib.util import find_spec


def pytest_collection_modifyitems(items):
    import pytest

    if find_spec("torch") is None:
        for item in items:
            if "tests/torch/" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason="torch is not installed: pip install 'onnxc[train]'"))
