"""What is answered about traces, against the API's document."""

import pytest

from aurora_web.traces.models import Trace
from aurora_web.traces.services import ingest_segment
from speculators.records import VersionSpan
from tests.unit.aurora_web.conftest import segment_payload
from tests.unit.aurora_web.documented import Asker

pytestmark = pytest.mark.django_db
ONE = "/targets/{slug}/traces/{trace_id}"


@pytest.fixture
def traced(target):
    """Two traces that a swap reached; the ids, newest first."""
    ingest_segment(segment_payload(2, version_spans=(VersionSpan(1, 1), VersionSpan(2, 1))))
    return [trace.trace_id.hex for trace in Trace.objects.order_by("-started_at", "-trace_id")]


def test_the_search_gives_lines_and_a_cursor(ask, traced):
    found = ask("GET", "/targets/{slug}/traces", query="?limit=1", slug="demo")
    assert [line["trace_id"] for line in found["items"]] == traced[:1]
    rest = ask("GET", "/targets/{slug}/traces", query=f"?cursor={found['next']}", slug="demo")
    assert [line["trace_id"] for line in rest["items"]] == traced[1:]


def test_a_trace_with_its_text_and_without(ask, client, bearer, traced):
    given = {"slug": "demo", "trace_id": traced[0]}
    plain = ask("GET", ONE, **given)
    assert len(plain["version_spans"]) == len(plain["steps"]) == 2
    told = ask("GET", ONE, query="?pieces=true", **given)
    assert told["steps"][0]["pieces"]["correct"] == [" w4"]
    hidden = Asker(client, bearer("viewer"))("GET", ONE, query="?pieces=true", **given)
    assert (hidden["is_redacted"], hidden["steps"][0]["pieces"]) == (True, None)


def test_a_deletion_says_what_stays(ask, traced):
    gone = ask("DELETE", ONE, {"reason": "asked for"}, slug="demo", trace_id=traced[0])
    assert gone["trace_id"] == traced[0]
