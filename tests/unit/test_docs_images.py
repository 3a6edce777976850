"""Pictures of the documents: each that is shown is there, each that is there is shown, and all are small."""

import re
from pathlib import Path

from django.urls import Resolver404, get_resolver

from tests.browser.screenshots import PAGES, SIGNED_OUT
from tests.browser.test_pages import PARTS, addresses

REPO = Path(__file__).resolve().parents[2]
IMAGES = REPO / "docs" / "images"
MOST_BYTES = 3_600_000


LEADING_ON = {"console:register", "console:register_bulk"}  # to the first step of the wizard
SIGNED_OUT_NAMES = {"invite": "accounts:invite", "sign-in": "accounts:login"}
FILLED = "12345678-1234-1234-1234-123456789012", "1"  # of an address: what names a trace, or a version
WIZARD = {"{draft}": "/targets/new/{draft}", "{several}": "/targets/new/{several}"}


def page_of(address):
    """The name of the page at an address of the pictures, whose places are not filled in."""
    for place, path in WIZARD.items():
        address = address.replace(place, path)
    for given in FILLED:
        try:
            found = get_resolver().resolve(re.sub(r"{\w+}", given, address).partition("?")[0])
        except Resolver404:
            continue
        return found.view_name
    raise AssertionError(f"{address} is no page")


def test_every_page_has_a_picture():
    """From the URL configuration: a new page without one fails here."""
    pages = {name for name, methods in addresses(get_resolver()) if {"GET", "get"} & set(methods)} - PARTS - LEADING_ON
    assert SIGNED_OUT_NAMES.keys() == set(SIGNED_OUT)
    pictured = {page_of(address) for address in PAGES.values()} | set(SIGNED_OUT_NAMES.values())
    assert pictured == pages


def test_pictures_are_there_and_used():
    shown = set()
    for document in (REPO / "README.md", *(REPO / "docs").glob("*.md")):
        for address in re.findall(r'(?:src|srcset)="([^"]+)"|!\[[^\]]*\]\(([^)]+)\)', document.read_text()):
            shown.add((document.parent / "".join(address)).resolve())
    assert shown == set(IMAGES.iterdir())


def test_pictures_are_small():
    assert sum(path.stat().st_size for path in IMAGES.iterdir()) < MOST_BYTES
