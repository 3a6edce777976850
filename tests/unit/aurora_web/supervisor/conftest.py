"""A place that everybody may enter."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that everybody may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="aurora-servers-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
