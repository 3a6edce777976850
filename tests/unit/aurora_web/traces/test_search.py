"""Search by key, text for those who may read it, deletion that a second delivery does not undo, export."""

import json
import uuid
from collections import Counter
from datetime import timedelta
from importlib import import_module
from types import SimpleNamespace

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from aurora_web.accounts.models import AuditEvent
from aurora_web.registry.models import Target
from aurora_web.traces import governance, payloads, search, services
from aurora_web.traces.models import DeletedTrace, Trace
from aurora_web.traces.text import NoTokenizer, reader_of
from tests.unit.aurora_web.conftest import segment_payload

pytestmark = pytest.mark.django_db


def ids(found):
    return [trace.trace_id for trace in found.traces]


def ingest(num=1, **changes):
    payload = segment_payload(num, **{k: v for k, v in changes.items() if k == "domain"})
    for i, trace in enumerate(payload["traces"]):
        trace |= {k: v for k, v in changes.items() if k != "domain"} | {"started_at": trace["started_at"] - i}
    services.ingest_segment(payload)
    return payload


def test_pages_by_key_hold_every_trace_once_newest_first(target):
    ingest(7)
    at = Trace.objects.first().started_at
    Trace.objects.filter(started_at__lt=at).update(started_at=at)  # ties are ordered by id
    seen, cursor = [], ""
    while True:
        found = search.search(target, search.TraceFilter(), cursor, 3)
        seen += [(trace.started_at, trace.trace_id) for trace in found.traces]
        cursor = found.next
        if not cursor:
            break
    assert len(seen) == 7
    assert seen == sorted(set(seen), reverse=True)


@pytest.mark.parametrize(
    ("given", "num"),
    [
        ({"version": "v2"}, 1),
        ({"version": "0"}, 0),
        ({"domain": "prose"}, 1),
        ({"finish_reason": "stop"}, 1),
        ({"min_accept_length": "1.6"}, 1),
        ({"max_accept_length": "1.6"}, 3),
        ({"min_accept_length": "1.5", "max_accept_length": "1.5"}, 3),
        ({"since": "2020-01-01T00:00"}, 4),
        ({"until": "2020-01-01T00:00"}, 0),
        ({"state": "waiting"}, 3),
        ({"state": "held_out"}, 1),
    ],
)
def test_every_filter_finds_what_it_names(target, given, num):
    steps = [{"proposed": [4, 5], "num_correct_drafts": 2}]  # accept length 3; the plain ones have 1.5
    ingest(domain="prose", version=2, finish_reason="stop", steps=steps, trace_id="1" + uuid.uuid4().hex[1:])
    ingest(3, domain="sql")
    Trace.objects.filter(domain="sql").update(is_held_out=False)
    Trace.objects.filter(domain="prose").update(is_held_out=True)
    wanted = search.read_filter(given)
    found = search.search(target, wanted)
    assert len(found.traces) == num
    assert search.count(target, wanted) == search.count(target, wanted, found) == num


def test_every_state_that_a_row_says_finds_exactly_these_rows(target):
    ingest(6)
    ids = list(Trace.objects.values_list("trace_id", flat=True))
    soon, past = timezone.now() + timedelta(minutes=1), timezone.now() - timedelta(minutes=1)
    Trace.objects.update(is_held_out=False)
    for trace_id, changes in zip(
        ids,
        (
            {"is_held_out": True},
            {"trained_at": past},
            {"is_lost": True},
            {"lease_expires_at": soon},
            {"lease_expires_at": past},
            {},
        ),
        strict=True,
    ):
        Trace.objects.filter(trace_id=trace_id).update(**changes)
    said = Counter(trace.state for trace in Trace.objects.all())
    assert said == {"held out": 1, "trained": 1, "lost": 1, "leased": 1, "waiting": 2}
    for state in search.STATES:
        found = search.search(target, search.read_filter({"state": state})).traces
        assert [trace.state for trace in found] == [state] * said[state]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("since", "yesterday"), ("version", "x"), ("version", "-1"), ("min_accept_length", "nan"), ("state", "odd"),
        ("finish_reason", "boom"), ("domain", "x" * 101), ("until", "1e400"), ("max_accept_length", "-1"),
    ],
)  # fmt: skip
def test_a_bad_filter_is_named(target, clients, client, bearer, field, value):
    with pytest.raises(search.SearchError, match=field):
        search.read_filter({field: value})
    answer = client.get("/api/v1/targets/demo/traces", {field: value}, **bearer("viewer"))
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert clients["viewer"].get("/targets/demo/traces/", {field: value}).status_code == 422


@pytest.mark.parametrize("cursor", ["x", "1-2", "-", "9" * 40 + "-" + "0" * 32])
def test_a_bad_cursor_is_refused(target, clients, cursor):
    with pytest.raises(search.SearchError, match="cursor"):
        search.search(target, search.TraceFilter(), cursor)
    assert clients["viewer"].get("/targets/demo/traces/", {"cursor": cursor}).status_code == 422


def test_a_search_uses_the_index_and_few_queries(target, clients):
    ingest(60)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert clients["viewer"].get("/targets/demo/traces/?domain=sql").status_code == 200
    assert len(queries) < 22, [q["sql"][:80] for q in queries]
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")
    plan = Trace.objects.filter(target=target, domain="sql").order_by("-started_at", "-trace_id")
    assert "Index Only Scan using traces_trace_" in plan.values_list("trace_id", "started_at")[:51].explain()


def test_a_search_that_takes_too_long_is_stopped_and_said(target, clients, monkeypatch):
    ingest()
    monkeypatch.setattr(search, "SEARCH_MS", 50)
    with pytest.raises(search.SearchTooSlow, match="narrow the time"), search.bounded():
        connection.cursor().execute("SELECT pg_sleep(2)")


def test_domains_are_found_by_jumps(target):
    for name in ("sql", "prose", "code", "sql"):
        ingest(2, domain=name)
    Trace.objects.update(is_held_out=True)
    assert search.domains(target) == ["code", "prose", "sql"]


def test_text_is_for_roles_that_may_read_it(target, client, bearer):
    ingest()
    address = f"/api/v1/targets/demo/traces/{Trace.objects.get().trace_id}"
    shown = client.get(address, **bearer("operator")).json()
    assert (shown["prompt"], shown["steps"][0]["rejected"], shown["is_redacted"]) == ([1, 2], [9], False)
    hidden = client.get(address, **bearer("viewer")).json()
    assert hidden["is_redacted"] is True
    assert (hidden["prompt"], hidden["first"], hidden["rest"]) == (None, None, None)
    assert (hidden["prompt_text"], hidden["generated_text"], hidden["no_text"]) == (None, None, "")
    secret = client.get(f"{address}?pieces=true", **bearer("viewer")).json()
    assert (set(secret["pieces"].values()), secret["steps"][0]["pieces"]) == ({None}, None)
    assert hidden["steps"][0] == {
        "number": 1, "position": 1, "num_proposed": 2, "num_correct": 1, "num_rejected": 1, "num_dropped": 0,
        "num_bonus": 1, "correct": None, "rejected": None, "dropped": None, "bonus": None,
    }  # fmt: skip
    change = {"data": json.dumps({"text_role": "admin", "reason": "private"}), "content_type": "application/json"}
    assert client.patch("/api/v1/targets/demo/trace-access", **change, **bearer("admin")).status_code == 200
    assert client.get(address, **bearer("operator")).json()["is_redacted"] is True
    event = AuditEvent.objects.get(action="trace.access")
    assert (event.reason, event.detail["new"]) == ("private", {"text_role": "admin"})


def test_the_api_gives_the_text_that_the_page_shows(target, client, clients, bearer):
    ingest()
    trace_id, operator = Trace.objects.get().trace_id, bearer("operator")
    address = f"/api/v1/targets/demo/traces/{trace_id}"
    plain = client.get(address, **operator).json()
    assert (plain["prompt_text"], plain["generated_text"], plain["no_text"]) == ("w1 w2", " w3 w4 w5 w6", "")
    assert "pieces" not in plain
    told = client.get(f"{address}?pieces=true", **operator).json()
    assert told["pieces"] == {"prompt": ["w1", " w2"], "first": [" w3"], "rest": []}
    assert told["steps"][0]["pieces"] == {"correct": [" w4"], "rejected": [" w9"], "dropped": [], "bonus": [" w5"]}
    page = clients["operator"].get(f"/targets/demo/traces/{trace_id}/").content.decode()
    for piece in ("w1", " w2", " w3", " w4", " w9", " w5"):
        assert f">{piece}</span>" in page
    assert AuditEvent.objects.filter(action="trace.read", actor="token:operator's").count() == 2
    Target.objects.update(path="/nowhere")
    told = client.get(f"{address}?pieces=true", **operator).json()
    assert (told["prompt"], told["prompt_text"], told["pieces"]["prompt"]) == ([1, 2], None, None)
    assert "/nowhere/tokenizer.json cannot be read" in told["no_text"]


def test_a_trace_is_found_by_its_id_as_the_api_says_it_or_with_dashes(target, client, clients, bearer):
    ingest()
    listed = client.get("/api/v1/targets/demo/traces", **bearer("viewer")).json()["items"][0]["trace_id"]
    assert len(listed) == 32
    for found in (listed, listed.upper(), str(uuid.UUID(listed))):
        assert client.get(f"/api/v1/targets/demo/traces/{found}", **bearer("viewer")).json()["trace_id"] == listed
        assert clients["viewer"].get(f"/targets/demo/traces/{found}/").status_code == 200
    assert client.get(f"/api/v1/targets/demo/traces/{listed[1:]}", **bearer("viewer")).status_code == 404


def test_an_unknown_text_role_is_refused(target):
    with pytest.raises(governance.GovernanceError, match="expected one of viewer, operator, admin"):
        governance.set_text_role(target, "everybody", "ada")


def test_a_deleted_trace_is_gone_and_stays_gone(target, client, bearer):
    payload = ingest(2)
    trace_id = Trace.objects.first().trace_id
    address = f"/api/v1/targets/demo/traces/{trace_id}"
    body = {"data": json.dumps({"reason": "asked for"}), "content_type": "application/json"}
    answer = client.delete(address, **body, **bearer("operator")).json()
    assert "marked gone" in answer["what_stays"]
    assert "until that expires" in answer["what_stays"]
    assert client.get(address, **bearer("operator")).status_code == 404
    assert client.delete(address, **body, **bearer("operator")).status_code == 404
    assert services.ingest_segment(payload) == (0, 2)  # a second delivery
    assert list(Trace.objects.values_list("trace_id", flat=True)) != [trace_id]
    assert Trace.objects.count() == 1
    assert DeletedTrace.objects.get().reason == "asked for"
    assert AuditEvent.objects.get(action="trace.delete").reason == "asked for"


def test_a_deletion_needs_a_reason(target):
    ingest()
    with pytest.raises(governance.GovernanceError, match="reason"):
        governance.delete_trace(target, Trace.objects.get().trace_id, "ada", "  ")
    assert Trace.objects.count() == 1


def test_a_slice_that_trains_on_a_deleted_trace_ends_well(target):
    ingest(20)
    lease = uuid.uuid4()
    mine = services.lease_fresh(target, lease, 20, 60.0)
    governance.delete_trace(target, mine[0], "ada", "asked for")
    assert services.acknowledge(lease, mine, []) == len(mine) - 1


def test_an_export_is_whole_lines_in_pages_and_in_the_activity_log(target, client, bearer):
    ingest(5)
    answer = client.get("/api/v1/targets/demo/traces/export?limit=3", **bearer("operator"))
    lines = [json.loads(line) for line in answer.content.splitlines()]
    rest = client.get(f"/api/v1/targets/demo/traces/export?cursor={answer['X-Aurora-Next']}", **bearer("operator"))
    lines += [json.loads(line) for line in rest.content.splitlines()]
    assert len({line["trace_id"] for line in lines}) == 5
    assert lines[0]["prompt"] == [1, 2]
    assert (lines[0]["prompt_text"], lines[0]["generated_text"]) == ("w1 w2", " w3 w4 w5 w6")
    assert "X-Aurora-Next" not in rest
    redacted = client.get("/api/v1/targets/demo/traces/export", **bearer("viewer"))
    assert json.loads(redacted.content.splitlines()[0])["prompt"] is None
    assert b"w1" not in redacted.content
    logged = AuditEvent.objects.filter(action="trace.export").order_by("id")
    assert [event.detail["has_text"] for event in logged] == [True, True, False]


def test_a_trace_is_whole_again_from_its_export(target):
    ingest()
    line = payloads.whole(Trace.objects.get(), True)
    tokens = (
        line["prompt"] + line["first"] + [t for s in line["steps"] for t in s["correct"] + s["bonus"]] + line["rest"]
    )
    assert tokens == Trace.objects.get().tokens


def test_pieces_of_text_add_up_to_the_text(target):
    reader = reader_of(target)
    assert "".join(reader.pieces([1, 2, 3])) == "w1 w2 w3"
    assert reader.pieces([4], before=[1, 2]) == [" w4"]
    assert (reader.text([3, 4], [2]), reader.text([], [2])) == (" w3 w4", "")


def test_a_missing_tokenizer_is_said_with_its_path(target):
    target.path = "/nowhere"
    with pytest.raises(NoTokenizer, match=r"/nowhere/tokenizer\.json cannot be read by the console"):
        reader_of(target)


def test_a_broken_tokenizer_is_said_with_its_path(target, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    target.path = str(tmp_path)
    with pytest.raises(NoTokenizer, match="is no tokenizer"):
        reader_of(target)
    target.path, target.model_id = "", "org/model"
    with pytest.raises(NoTokenizer, match="AURORA_MODELS_DIR"):
        reader_of(target)


def test_steps_without_drafts_are_in_no_accept_length(target):
    steps = [{"proposed": [], "num_correct_drafts": 0}, {"proposed": [4], "num_correct_drafts": 1}]
    ingest(steps=steps)
    trace = Trace.objects.get()
    assert (trace.num_verify_steps, trace.num_plain_steps, trace.accept_length) == (2, 1, 2.0)
    assert ids(search.search(target, search.read_filter({"min_accept_length": "2"}))) == [trace.trace_id]
    Trace.objects.update(num_plain_steps=2, num_correct_drafts=0)
    assert Trace.objects.get().accept_length is None
    for given in ({"min_accept_length": "0"}, {"max_accept_length": "9"}):
        assert search.count(target, search.read_filter(given)) == 0


def test_the_migration_fills_the_sums_of_traces_that_were_there(target):
    ingest(5)
    columns = ("trace_id", "num_verify_steps", "num_proposed_drafts", "num_correct_drafts")
    before = set(Trace.objects.values_list(*columns))
    Trace.objects.update(num_verify_steps=0, num_proposed_drafts=0, num_correct_drafts=0)
    migration = import_module("aurora_web.traces.migrations.0003_trace_search")
    migration.fill(None, SimpleNamespace(connection=connection))
    assert set(Trace.objects.values_list(*columns)) == before
    assert {row[1:] for row in before} == {(2, 3, 1)}
