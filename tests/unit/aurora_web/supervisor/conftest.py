"""A place that everybody may enter."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.ring import open_directory


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that everybody may enter, which pytest's own are not."""
    with open_directory() as folder:
        yield folder
