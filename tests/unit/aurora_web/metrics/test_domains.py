"""Drift, heatmap and slices from plain sums; the page and the API that show them."""

import csv
import html
import io
import re
import time
import uuid
from dataclasses import replace
from datetime import datetime, timedelta
from urllib.parse import unquote

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from aurora_web.console import domains as console_domains
from aurora_web.metrics import domains, services, slices
from aurora_web.metrics.domains import DomainSums, find_drift
from aurora_web.metrics.models import MetricWindow
from aurora_web.metrics.ratios import Moments
from aurora_web.metrics.services import summary
from aurora_web.registry.models import Target
from aurora_web.traces import domains as rules
from aurora_web.traces import services as traces
from speculators.records import StepRecord
from tests.unit.aurora_web.conftest import count_window, segment_payload


def accept(length, windows=30, steps=100, spread=0.1):
    """Moments of so many ten-second windows around an accept length."""
    total = Moments(0, 0, 0, 0, 0, 0)
    for i in range(windows):
        tokens = steps * length * (1 + spread * (i % 3 - 1))
        total += Moments(1, tokens, steps, tokens * tokens, steps * steps, tokens * steps)
    return total


def window(at, domain, num_requests, length=2.0, version=1, **kwargs):
    return DomainSums(at, domain, version, num_requests, accept(length, **kwargs))


def test_the_same_traffic_twice_is_no_drift():
    rows = [window(at, domain, 100) for at in (0, 60) for domain in ("sql", "prose")]
    assert find_drift(rows, 60) == []


def test_a_share_that_moves_is_drift_of_both_domains():
    rows = [window(0, "sql", 80), window(0, "prose", 20), window(60, "sql", 40), window(60, "prose", 60)]
    found = find_drift(rows, 60)
    assert {(d.domain, d.what, d.before, d.after) for d in found} == {
        ("prose", "share", 0.2, 0.6),
        ("sql", "share", 0.8, 0.4),
    }
    assert all(d.errors > 3 for d in found)


def test_a_domain_that_appears_or_vanishes_is_drift():
    found = find_drift([window(0, "sql", 100), window(60, "sql", 50), window(60, "new", 50)], 60)
    assert {(d.domain, d.before, d.after) for d in found} == {("sql", 1.0, 0.5), ("new", 0.0, 0.5)}


def test_few_requests_and_small_changes_are_no_drift():
    few = [window(0, "sql", 8), window(0, "prose", 2), window(60, "sql", 4), window(60, "prose", 6)]
    assert find_drift(few, 60) == []
    small = [window(0, "a", 50_000), window(0, "b", 50_000), window(60, "a", 52_000), window(60, "b", 48_000)]
    assert find_drift(small, 60) == []  # certain, and too small to matter


def test_an_accept_length_that_falls_under_one_version_is_drift():
    [found] = find_drift([window(0, "sql", 100, 2.5), window(60, "sql", 100, 1.5)], 60)
    assert (found.what, found.version, found.at) == ("accept length", 1, 60)
    assert (found.before, found.after) == (pytest.approx(2.5), pytest.approx(1.5))


def test_another_version_or_a_gap_or_noise_is_no_drift():
    assert find_drift([window(0, "sql", 100, 2.5), window(60, "sql", 100, 1.5, version=2)], 60) == []
    assert find_drift([window(0, "sql", 100, 2.5), window(180, "sql", 100, 1.5)], 60) == []
    noisy = {"windows": 6, "spread": 0.6}
    assert find_drift([window(0, "sql", 100, 2.2, **noisy), window(60, "sql", 100, 2.0, **noisy)], 60) == []


def test_the_heatmap_orders_by_traffic_and_divides_at_the_end():
    rows = [window(0, "sql", 10, 2.0), window(0, "sql", 30, 3.0, version=2), window(0, "prose", 60, 1.5)]
    versions, lines = domains.heatmap(rows)
    assert versions == [1, 2]
    assert [(line.domain, line.share) for line in lines] == [("prose", 0.6), ("sql", 0.4)]
    assert [cell.value for cell in lines[1].cells] == [pytest.approx(2.0), pytest.approx(3.0)]
    assert lines[1].total.value == pytest.approx(2.5)
    assert lines[0].cells[1].value is None
    assert lines[0].cells[0].low < 1.5 < lines[0].cells[0].high


def test_expected_domains_have_a_line_before_their_first_request():
    _, lines = domains.heatmap([window(0, "sql", 10, 2.0)], ["prose", "sql"])
    assert [(line.domain, line.num_requests, line.total.value) for line in lines] == [
        ("sql", 10, pytest.approx(2.0)),
        ("prose", 0, None),
    ]


@pytest.mark.django_db
def test_expected_domains_are_on_both_pages(clients, target):
    Target.objects.update(expected_domains=["legal"])
    for path in ("/targets/demo/", "/targets/demo/domains/"):
        page = clients["viewer"].get(path).content.decode()
        assert '<th scope="row">legal</th>' in page, path
    figures = summary(Target.objects.get())
    assert [(row["domain"], row["counts"]["num_requests"]) for row in figures["domains"]] == [("legal", 0)]
    assert summary(Target.objects.get(), domain="sql")["domains"] == []


@pytest.mark.django_db
def test_requests_are_the_same_on_the_live_page_and_here(target):
    rows = [count_window(n=30), count_window(version=0, n=8), count_window(domain="prose", n=10)]
    services.ingest_counts({"counts": [row.to_json() for row in rows]})
    services.roll_up()
    since = timezone.now() - timedelta(minutes=30)
    live = {row["domain"]: row["counts"]["num_requests"] for row in summary(target, since=since.timestamp())["domains"]}
    sums = domains.read_sums(target, since, timezone.now() + timedelta(seconds=20), 300)
    _, lines = domains.heatmap(sums)
    assert {line.domain: line.num_requests for line in lines} == live == {"sql": 30, "prose": 10}


def sampled(domain, sums, n):
    return [(uuid.uuid4(), domain, sums) for _ in range(n)]


def test_a_slice_names_the_traces_that_are_worst_there():
    worse, bad, good = (
        sampled("sql", [("0 to 63", "0 to 15", tokens, 20), ("0 to 63", "16 to 63", 30, 20)], n)
        for tokens, n in ((20, 2), (30, 4), (60, 4))
    )
    found = {each.position: each.trace_ids for each in slices.rank(good + bad + worse)}
    ids = [trace_id.hex for trace_id, _, _ in worse]
    assert set(ids) < set(found["0 to 15"]) <= {*ids, *(trace_id.hex for trace_id, _, _ in bad)}
    assert len(found["16 to 63"]) == 3


def test_slices_put_the_worst_first():
    bad, good = [(0, [1, 2])] * 40, [(2, [1, 2])] * 40
    found = slices.rank(sampled("bad", slices.of_trace(10, bad), 6) + sampled("good", slices.of_trace(10, good), 6))
    assert found[0].domain == "bad"
    assert found[0].accept_length == 1.0
    assert found[-1].accept_length == 3.0
    assert {(s.context, s.position) for s in found if s.domain == "bad"} == {
        ("0 to 63", "0 to 15"),
        ("0 to 63", "16 to 63"),
    }
    assert slices.rank(sampled("few", slices.of_trace(10, bad), 4)) == []


@pytest.mark.django_db
def test_the_page_lists_the_worst_slices_first(target, clients, client, bearer):
    for domain, num_correct in (("good", 2), ("bad", 0)):
        steps = tuple(StepRecord((9, 9, 9), num_correct) for _ in range(20))
        tokens = tuple(range(4)) + (5,) * 20 * (1 + num_correct)
        traces.ingest_segment(segment_payload(6, domain=domain, tokens=tokens, prompt_len=4, steps=steps))
    page = clients["viewer"].get("/targets/demo/domains/").content.decode()
    listed = page.split('aria-label="Worst slices"')[1].split("</table>")[0]
    assert listed.index("?domain=bad") < listed.index("?domain=good")
    assert "0 to 63" in listed and "0 to 15" in listed
    [worst, *_] = client.get("/api/v1/targets/demo/slices", **bearer("viewer")).json()["slices"]
    assert (worst["domain"], len(worst["trace_ids"])) == ("bad", 3)
    for trace_id in worst["trace_ids"]:
        address = f"/targets/demo/traces/{trace_id}/"
        assert f'href="{address}"' in listed
        assert clients["viewer"].get(address).status_code == 200


def test_slices_add_up_to_all_steps_and_leave_undrafted_ones_out():
    steps = [(1, [5]), (0, [])] * 300
    found = slices.rank(sampled("sql", slices.of_trace(0, steps), 5))
    # The first 5 drafted steps of each trace end before position 16: 25 together, too few for a slice.
    assert sum(s.num_verify_steps for s in found) == 5 * (300 - 5)
    assert all(s.accept_length == 2.0 for s in found)


@pytest.mark.parametrize(
    ("value", "name"), [(0, "0 to 15"), (15, "0 to 15"), (16, "16 to 63"), (5000, "1024 and more")]
)
def test_bands(value, name):
    assert slices.band(value, slices.POSITION_EDGES) == name


def text(answer):
    return " ".join(answer.content.decode().split())


@pytest.fixture
def measured(target):
    """An hour of two domains, a shift in its middle."""
    now = time.time()
    for minute in range(50, 0, -1):
        for domain, n in (("sql", 40 if minute > 25 else 10), ("prose", 10 if minute > 25 else 40)):
            row = replace(count_window(domain=domain, n=n), ended_at=now - 60 * minute)
            services.ingest_counts({"counts": [row.to_json()]})
    services.roll_up()
    traces.ingest_segment(segment_payload(8))
    return target


@pytest.mark.django_db
def test_the_page_shows_the_shift(measured, clients):
    page = text(clients["viewer"].get("/targets/demo/domains/?range=1h"))
    assert "its share of the requests went from" in page
    assert "v1</a>" in page
    assert "8 traces with drafts: too few" in page
    assert "Add the rule" not in page
    assert "/targets/demo/traces/?domain=prose" in page


@pytest.mark.django_db
def test_a_cell_of_the_heatmap_leads_to_its_version_and_time(measured, clients):
    page = text(clients["viewer"].get("/targets/demo/domains/?range=1h"))
    found = re.search(r'/targets/demo/traces/\?domain=sql&amp;version=1&amp;since=([^&"]+)&amp;until=([^&"]+)', page)
    since, until = (datetime.fromisoformat(unquote(at)) for at in found.groups())
    assert timedelta(hours=1) <= until - since <= timedelta(hours=1, seconds=2)
    listed = text(clients["viewer"].get(html.unescape(found.group(0))))
    assert "8 traces match, newest first." in listed


@pytest.mark.django_db
def test_the_api_has_the_same_figures(measured, client, bearer):
    found = client.get("/api/v1/targets/demo/domains?range=1h", **bearer("viewer")).json()
    assert {line["domain"] for line in found["domains"]} == {"sql", "prose"}
    assert sum(line["share"] for line in found["domains"]) == pytest.approx(1.0)
    assert sum(point["num_requests"] for point in found["trend"]) == sum(
        r.num_requests for r in MetricWindow.objects.all()
    )
    assert {d["what"] for d in found["drift"]} == {"share"}
    assert client.get("/api/v1/targets/demo/slices", **bearer("viewer")).json()["num_traces"] == 8
    assert client.get("/api/v1/targets/demo/domains?range=1y", **bearer("viewer")).status_code == 422


@pytest.mark.django_db
def test_the_trend_is_a_table_and_a_file_too(measured, client, clients, bearer, monkeypatch):
    charts = text(clients["viewer"].get("/targets/demo/domains/?range=1h"))
    assert 'href="?range=1h&amp;view=table#trend"' in charts
    page = text(clients["viewer"].get("/targets/demo/domains/?range=1h&view=table"))
    assert "plotly" not in page
    assert 'href="?range=24h&amp;view=table"' in page  # the view stays when the range changes
    answer = client.get("/api/v1/targets/demo/domains.csv?range=1h", **bearer("viewer"))
    assert answer["content-disposition"] == 'attachment; filename="demo-domains.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    points = client.get("/api/v1/targets/demo/domains?range=1h", **bearer("viewer")).json()["trend"]
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    assert [(int(row["num_requests"]), row["domain"]) for row in rows] == [
        (point["num_requests"], point["domain"]) for point in points
    ]
    for at in {row["at"] for row in rows}:
        assert sum(float(row["share"]) for row in rows if row["at"] == at) == pytest.approx(1.0)
    assert (
        page.count('<th scope="row">prose</th>') == sum(row["domain"] == "prose" for row in rows) + 1
    )  # the heatmap's
    monkeypatch.setattr(console_domains, "MAX_TREND", 3)
    short = text(clients["viewer"].get("/targets/demo/domains/?range=1h&view=table"))
    assert f"The newest 3 of {len(rows)} lines" in short
    assert client.get("/api/v1/targets/demo/domains.csv?range=1y", **bearer("viewer")).status_code == 422


@pytest.mark.django_db
def test_the_page_takes_few_queries_however_many_domains(target, clients):
    now = timezone.now()
    for i in range(40):
        row = replace(
            count_window(domain=f"d{i}", version=i % 20 + 1), ended_at=(now - timedelta(seconds=60)).timestamp()
        )
        services.ingest_counts({"counts": [row.to_json()]})
    services.roll_up()
    with CaptureQueriesContext(connection) as queries:
        assert clients["viewer"].get("/targets/demo/domains/").status_code == 200
    assert len(queries) < 15


@pytest.mark.django_db
def test_rules_on_the_page(target, clients):
    empty = text(clients["operator"].get("/targets/demo/domains/"))
    assert "Nothing measured in this time" in empty
    form = {"kind": "regex", "pattern": "sql(", "domain": "x"}
    answer = clients["operator"].post("/targets/demo/domains/", form)
    assert answer.status_code == 422
    assert "a ( without its ) (at character 4)" in text(answer)
    assert 'value="sql("' in text(answer)
    form = {"kind": "exact", "pattern": "sql, mysql", "domain": "database", "reason": "one team"}
    page = text(clients["operator"].post("/targets/demo/domains/", form, follow=True))
    assert "What arrives from now on as sql, mysql is kept as database." in page
    rule = target.domain_rules.get(pattern="sql")
    page = text(clients["operator"].post(f"/targets/demo/domains/rules/{rule.pk}/end/", follow=True))
    assert "holds no more" in page
    assert "ended by operator" in page
    again = clients["operator"].post(f"/targets/demo/domains/rules/{rule.pk}/end/", follow=True)
    assert "Nothing was changed" in text(again)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("merged", "split"),
    [
        (("prefix", "db-"), ("prefix", "db-sql")),
        (("regex", "db-.*"), ("prefix", "db-sql")),
        (("exact", "db-kv"), ("regex", r"db-sql-\d+")),  # which is merged with what clients call database themselves
    ],
)
def test_a_rule_takes_a_part_out_of_a_merged_domain_and_its_figures_are_of_its_own(
    target, client, bearer, merged, split
):
    names = [("db-sql-1", 7), ("db-kv", 5), ("database" if merged[0] == "exact" else "db-doc", 3)]

    def arrive():
        rows = [count_window(domain=name, n=n).to_json() for name, n in names]
        services.ingest_counts({"counts": rows})
        services.roll_up()
        found = client.get("/api/v1/targets/demo/domains?range=1h", **bearer("viewer")).json()["domains"]
        return {line["domain"]: line["num_requests"] for line in found}

    kind, pattern = merged
    rules.add_rules(target, kind, [pattern], "database", "ada")
    before = arrive()
    assert before["database"] == (8 if kind == "exact" else 15)
    rules.add_rules(target, split[0], [split[1]], "sql", "ada")
    after = arrive()
    assert after["sql"] == 7
    assert after["database"] - before["database"] == 8
