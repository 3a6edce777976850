"""A state directory with a model that was prepared from a named package, as the registry's tests need it."""

import json

import pytest

from aurora_web.registry import packages


@pytest.fixture
def package(checkpoint_dir, tmp_path, settings):
    """The folder of the package ``small``, the only one of its state directory."""
    settings.STATE_DIR = tmp_path
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    for file in checkpoint_dir.iterdir():
        (folder / file.name).symlink_to(file)
    facts = {"name": "small", "title": "A small model", "license": "Apache-2.0", "sha256": "a"}
    (folder / packages.MARKER).write_text(json.dumps(facts))
    return folder
