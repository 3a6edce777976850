"""The API's page for people, against the document that it is made from."""

import html
import json
import re
from pathlib import Path

import pytest

from aurora_web.accounts.scopes import MEANINGS

pytestmark = pytest.mark.django_db
DOCUMENT = json.loads((Path(__file__).parents[3] / "docs" / "openapi.json").read_text())


def shown(answer):
    """ "GET /api/v1/..." of every operation on the page, with the scope beside it."""
    assert answer.status_code == 200
    page = html.unescape(answer.content.decode())
    return dict(re.findall(r"<summary><code>([A-Z]+ [^<]+)</code> <span[^>]*>([a-z]+)<", page))


def test_every_operation_of_the_document_is_there_with_its_scope(clients):
    expected = {
        f"{method.upper()} {path}": operation["security"][0]["bearer"][0]
        for path, operations in DOCUMENT["paths"].items()
        for method, operation in operations.items()
    }
    assert shown(clients["viewer"].get("/api/docs")) == expected
    assert set(expected.values()) <= set(MEANINGS)


def test_the_scope_named_is_the_one_that_is_asked_for(client, bearer, target):
    """A viewer's token has the scope read only, and is told which one is missing."""
    posts = {path: operations["post"] for path, operations in DOCUMENT["paths"].items() if "post" in operations}
    named = 0
    for path, post in posts.items():
        address = path.format_map({"slug": "demo", "version_id": 1, "channel_id": 1, "revision": 1})
        answer = client.post(address, data="{}", content_type="application/json", **bearer("viewer"))
        if answer.status_code == 403:
            assert answer.json()["missing_scope"] == post["security"][0]["bearer"][0], path
            named += 1
    assert named > 20


def test_fields_types_and_defaults_are_in_tables(clients):
    page = html.unescape(clients["viewer"].get("/api/docs?q=/rollback").content.decode())
    assert "Body (JSON) of POST /api/v1/targets/{slug}/rollback" in page
    assert "<code>reason</code>" in page
    assert "Idempotency-Key" in page


def test_a_search_finds_by_address_and_description_and_says_when_nothing_is_found(clients):
    found = shown(clients["viewer"].get("/api/docs?q=FREEZE"))
    assert set(found) >= {"POST /api/v1/targets/{slug}/freeze", "POST /api/v1/targets/{slug}/unfreeze"}
    assert len(found) < 10
    nothing = clients["viewer"].get("/api/docs?q=<script>")
    assert shown(nothing) == {}
    assert b"No operation has \xe2\x80\x9c&lt;script&gt;\xe2\x80\x9d" in nothing.content


def test_nobody_signed_in_is_asked_to(client):
    answer = client.get("/api/docs")
    assert answer.status_code == 302 and answer["location"].startswith("/accounts/login/")
