"""Pictures of the documents: each that is shown is there, each that is there is shown, and all are small."""

import re
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
IMAGES = REPO / "docs" / "images"
MOST_BYTES = 3_600_000


def test_pictures_are_there_and_used():
    shown = set()
    for document in (REPO / "README.md", *(REPO / "docs").glob("*.md")):
        for address in re.findall(r'(?:src|srcset)="([^"]+)"|!\[[^\]]*\]\(([^)]+)\)', document.read_text()):
            shown.add((document.parent / "".join(address)).resolve())
    assert shown == set(IMAGES.iterdir())


def test_pictures_are_small():
    assert sum(path.stat().st_size for path in IMAGES.iterdir()) < MOST_BYTES
