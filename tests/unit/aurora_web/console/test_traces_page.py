"""The pages about traces."""

import re

import pytest

from aurora_web.accounts.models import AuditEvent
from aurora_web.registry.models import Target
from aurora_web.traces import services
from aurora_web.traces.models import DeletedTrace, Trace, TraceAccess
from speculators.records import VersionSpan
from tests.unit.aurora_web.conftest import segment_payload

pytestmark = pytest.mark.django_db


def text(answer):
    return " ".join(answer.content.decode().split())


@pytest.fixture
def address(target):
    services.ingest_segment(segment_payload(1))
    return f"/targets/demo/traces/{Trace.objects.get().trace_id}/"


def test_no_trace_yet_says_what_will_be_here(clients, target):
    assert "No trace yet" in text(clients["viewer"].get("/targets/demo/traces/"))
    assert "Nothing matches these filters" in text(clients["viewer"].get("/targets/demo/traces/?domain=none"))


def test_the_list_links_to_each_trace_and_keeps_the_filters(clients, address):
    page = text(clients["operator"].get("/targets/demo/traces/?domain=sql&min_accept_length=1.2"))
    assert address in page
    assert "1 trace match" in page
    assert 'value="1.2"' in page
    assert "traces/export/?domain=sql&amp;min_accept_length=1.2" in page


def test_a_trace_shows_what_was_proposed_instead(clients, address):
    page = text(clients["operator"].get(address))
    assert (
        '<span class="hidden"> Rejected: </span><span class="run rejected"><span class="t" title="token 9"> w9</span>'
        in page
    )
    assert "Step 1: 1 of 2 drafts correct." in page
    assert '<span class="run prompt"><span class="t" title="token 1">w1</span>' in page
    trace_id = Trace.objects.get().trace_id
    clients["operator"].get(f"/api/v1/targets/demo/traces/{trace_id}")
    readings = AuditEvent.objects.filter(action="trace.read").values_list("actor", "subject", "target_slug")
    assert list(readings) == [("operator", trace_id.hex, "demo")] * 2


def test_a_trace_that_a_swap_reached_says_which_version_drafted_for_how_long(clients, target):
    services.ingest_segment(segment_payload(1, version_spans=(VersionSpan(1, 1), VersionSpan(2, 1))))
    trace_id = Trace.objects.get().trace_id
    assert "most of it: v1 for 1 step, then v2 for 1 step;" in text(
        clients["viewer"].get(f"/targets/demo/traces/{trace_id}/")
    )
    told = clients["viewer"].get(f"/api/v1/targets/demo/traces/{trace_id}").json()
    assert told["version_spans"] == [{"version": 1, "num_steps": 1}, {"version": 2, "num_steps": 1}]


def test_a_viewer_sees_lengths_and_outcomes_only(clients, address):
    page = text(clients["viewer"].get(address))
    assert ">w9<" not in page  # a CSRF token may hold the letters
    assert "token 9" not in page
    assert "The text is hidden" in page
    assert "Step 1: 1 of 2 drafts correct." in page
    assert '<span class="run rejected"><span class="t" title="hidden">▪</span>' in page
    assert "Delete this trace" not in page
    assert not AuditEvent.objects.filter(action="trace.read").exists()


def test_without_a_tokenizer_the_ids_are_shown_and_it_is_said(clients, address):
    Target.objects.update(path="/nowhere")
    page = text(clients["operator"].get(address))
    assert "Token ids instead of text: /nowhere/tokenizer.json cannot be read" in page
    assert "⟨9⟩" in page


def test_text_is_escaped(clients, address, monkeypatch):
    monkeypatch.setattr("aurora_web.traces.text.TokenReader._decode", lambda self, ids: "<b>" * len(ids))
    assert "<b>" not in text(clients["operator"].get(address))


def test_deleting_needs_a_reason_and_says_what_stays(clients, address):
    assert "a reason is needed" in text(clients["operator"].post(address + "delete/", {"reason": ""}, follow=True))
    page = text(clients["operator"].post(address + "delete/", {"reason": "personal data"}, follow=True))
    assert "The trace is deleted." in page
    assert "marked gone" in page
    gone = clients["viewer"].get(address)
    assert gone.status_code == 410
    assert "personal data" in text(gone)
    assert DeletedTrace.objects.get().actor == "operator"


def test_a_search_is_kept_through_a_trace_and_its_deletion(clients, address):
    operator, search = clients["operator"], "since=2026-01-01T00%3A00&domain=sql"
    typed = "since=2026-01-01T01:00&zone=Europe/Berlin&until=&version=&domain=sql&unknown=1"
    shown = search.replace("&", "&amp;")
    assert f'href="{address}?{shown}"' in text(operator.get(f"/targets/demo/traces/?{typed}"))
    page = text(operator.get(f"{address}?{search}"))
    assert f'href="/targets/demo/traces/?{shown}">←' in page
    delete = re.search(r'action="(.*?)"', page[page.index("Delete this trace") :])[1].replace("&amp;", "&")
    came = {"HTTP_REFERER": f"http://testserver{address}?{search}"}
    refused = operator.post(delete, {"reason": ""}, **came)
    assert refused["location"] == f"{address}?{search}"
    assert operator.post(delete, {"reason": "asked"}, **came)["location"] == f"/targets/demo/traces/?{search}"
    assert f'href="/targets/demo/traces/?{shown}">←' in text(operator.get(f"{address}?{search}"))  # deleted
    assert 'href="/targets/demo/traces/">←' in text(operator.get(address))


def test_a_refused_export_leads_back_to_the_search(clients, address):
    answer = clients["viewer"].get("/targets/demo/traces/export/?version=x&domain=sql")
    assert answer["location"] == "/targets/demo/traces/?version=x&domain=sql"


def test_only_admins_say_who_may_read_text(clients, address):
    page = text(clients["admin"].post("/targets/demo/traces/access/", {"text_role": "viewer"}, follow=True))
    assert "is now for: Everybody who can sign in" in page
    assert TraceAccess.objects.get().text_role == "viewer"
    assert "w9" in text(clients["viewer"].get(address))


def test_a_long_trace_is_shown_in_pages_of_steps(clients, target):
    payload = segment_payload(1)
    payload["traces"][0] |= {
        "tokens": [1, 2, *[3] * 251],
        "steps": [{"proposed": [4], "num_correct_drafts": 0}] * 250,
    }
    services.ingest_segment(payload)
    address = f"/targets/demo/traces/{Trace.objects.get().trace_id}/"
    assert "Steps 1 to 100 of 250" in text(clients["operator"].get(address))
    last = text(clients["operator"].get(address + "?step=250"))
    assert "Steps 201 to 250 of 250" in last
    assert "Earlier steps" in last
    assert "Later steps" not in last
    found = text(clients["operator"].get(address + "?domain=sql&step=101"))
    assert 'href="?domain=sql&amp;step=1"' in found and 'href="?domain=sql&amp;step=201"' in found
    assert clients["operator"].get(address + "?step=odd").status_code == 200


def test_an_export_from_the_page(clients, address):
    answer = clients["viewer"].get("/targets/demo/traces/export/?domain=sql")
    assert answer["content-type"] == "application/x-ndjson"
    assert b'"is_redacted":true' in answer.content
    assert "Nothing was exported" in text(clients["viewer"].get("/targets/demo/traces/export/?version=x", follow=True))
