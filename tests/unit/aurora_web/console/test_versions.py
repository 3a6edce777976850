"""The versions of a target: list, lineage, comparison, detail and files."""

import html
import re
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from aurora_web.accounts.models import AuditEvent
from aurora_web.metrics import services as metrics
from aurora_web.moments import said
from aurora_web.registry.lineage import lineage
from aurora_web.registry.models import SpeculatorVersion, Status, Transition
from aurora_web.registry.provenance import differences, provenance
from aurora_web.rollouts import services
from aurora_web.traces import services as traces
from aurora_web.traces.positions import count_positions
from aurora_web.training.learnt import learnt_from
from aurora_web.training.models import SliceState, TrainingRun, TrainingSlice
from tests.unit.aurora_web.conftest import count_window, segment_payload

pytestmark = pytest.mark.django_db


def text(answer):
    return " ".join(answer.content.decode().split())


@pytest.fixture
def two(target, make_version, report):
    """v1 retired, v2 live; both have served sql, v2 with the longer steps."""
    services.judge(make_version(report({"sql": (1.5, None)})))
    services.judge(make_version(report({"sql": (3.0, 1.5)})))
    windows = []
    for _ in range(8):
        windows.append(count_window(version=1, tokens=100.0))
        windows.append(count_window(version=2, tokens=100.0))
    for i, window in enumerate(windows):
        factor = 3 if window.version == 2 else 2
        changes = {"num_verify_steps": window.num_accept_tokens // factor + i % 3, "started_at": window.started_at}
        windows[i] = type(window)(**{**window.to_json(), **changes, "ended_at": window.ended_at - 10 * i})
    with connection.cursor() as cursor:  # the table is append-only; the windows below must lie after its rows
        cursor.execute("SET LOCAL session_replication_role = replica")
        Transition.objects.update(at=timezone.now() - timedelta(hours=1))
        cursor.execute("SET LOCAL session_replication_role = DEFAULT")
    metrics.ingest_counts({"counts": [w.to_json() for w in windows]})
    metrics.roll_up()
    traces.ingest_segment(segment_payload(5))
    return list(SpeculatorVersion.objects.order_by("number"))


def many(target, count):
    """Rows as registering would make them, without the time that it takes."""
    now = timezone.now()
    first = target.versions.first()
    SpeculatorVersion.objects.bulk_create(
        SpeculatorVersion(
            target=target, number=n, parent=first, status=Status.REJECTED, uri=f"/x/{n}", sha256=f"{n:064x}",
            size_bytes=1, created_at=now - timedelta(hours=n),
        )
        for n in range(10, 10 + count)
    )  # fmt: skip


def test_the_list_says_aliases_measured_and_replayed(clients, two):
    page = text(clients["viewer"].get("/targets/demo/versions/"))
    assert '<a href="/targets/demo/versions/2/">v2</a> <code>@live</code>' in page
    assert '<a href="/targets/demo/versions/1/">v1</a> <code>@previous</code>' in page
    assert re.search(r'<td class="n">3.00</td> ?<td class="n">(2.9|3.0)\d</td>', page)  # replayed, measured
    assert 'aria-label="v2, live, without a parent"' in page


def test_the_replayed_length_of_a_version_is_that_of_its_verdict(clients, target, make_version, report):
    services.judge(make_version(report({"sql": (1.5, None)})))
    windows = [count_window(n=90), count_window(domain="prose", n=10)]
    metrics.ingest_counts({"counts": [w.to_json() for w in windows]})
    metrics.roll_up()
    decision = services.judge(make_version(report({"sql": (3.0, 1.5), "prose": (2.0, 1.9), "gone": (2.0, 2.0)})))
    assert decision.accept_length == pytest.approx(0.9 * 3.0 + 0.1 * 2.0)  # by the traffic; by traces it is 2.33
    for path in ("versions/", "parts/?part=versions-part"):
        page = text(clients["viewer"].get(f"/targets/demo/{path}"))
        assert '<td class="n">2.90</td>' in page and '<td class="n">2.33</td>' not in page
    assert "replayed 2.90" in text(clients["viewer"].get("/targets/demo/parts/?part=figures"))
    report_page = text(clients["viewer"].get("/targets/demo/versions/2/"))
    assert "on 20 held-out traces" in report_page
    assert ", 20 traces, worst domain" in text(clients["viewer"].get("/targets/demo/parts/?part=events-part"))
    assert 'all</th><td>Accept length</td><td class="n">–</td><td class="n">20</td>' in report_page  # not 30


def test_an_empty_list_says_what_will_be_here(clients, target):
    assert "will be listed here" in text(clients["viewer"].get("/targets/demo/versions/"))


@pytest.mark.parametrize(
    ("query", "shown", "hidden"),
    [
        ("status=live", "v2", "v1"),
        ("q=v1", "v1", "v2"),
        ("q=No+version+is+live", "v1", "v2"),
        ("status=nonsense&sort=nonsense&since=x", "v2", None),
        ("since=1h", "v2", None),
    ],
)
def test_filters_are_in_the_address(clients, two, query, shown, hidden):
    page = text(clients["viewer"].get(f"/targets/demo/versions/?{query}"))
    assert f'aria-label="Compare {shown}"' in page
    assert hidden is None or f'aria-label="Compare {hidden}"' not in page


def test_a_filter_without_a_match_and_an_order(clients, two):
    assert "No version matches" in text(clients["viewer"].get("/targets/demo/versions/?q=nothing"))
    page = text(clients["viewer"].get("/targets/demo/versions/?sort=oldest"))
    assert page.index('aria-label="Compare v1"') < page.index('aria-label="Compare v2"')


def test_five_hundred_versions_cost_the_same_queries_and_pages(clients, two, target):
    def ask():
        with CaptureQueriesContext(
            connection,
        ) as queries:
            page = clients["viewer"].get("/targets/demo/versions/")
        return len(queries), text(page)

    few, _ = ask()
    many(target, 498)
    lots, page = ask()
    assert lots <= few <= 16
    assert "Page 1 of 20" in page
    assert page.count('name="v"') == 25


def test_lineage_keeps_a_lane_for_the_first_child_and_marks_parents_elsewhere():
    def version(number, parent=None):
        return SpeculatorVersion(number=number, parent=parent, status=Status.REJECTED)

    one = version(1)
    two = version(2, one)
    three, four = version(3, one), version(4, two)
    found = lineage([four, three, two])
    nodes = {node.number: node for node in found.nodes}
    assert nodes[1].is_stub and not nodes[2].is_stub
    assert nodes[1].y == nodes[2].y == nodes[4].y < nodes[3].y
    assert nodes[1].x < nodes[2].x < nodes[3].x < nodes[4].x
    assert len(found.edges) == 3
    assert nodes[3].label == "v3, rejected, from v1"


def test_comparing_shows_intervals_positions_and_differences(clients, two):
    page = text(clients["viewer"].get("/targets/demo/versions/compare/?v=1&v=2"))
    assert "against v1, 95 %" in page
    assert "+100.0 %" in page  # replayed 1.5 -> 3.0
    assert '<span class="badge good">better</span>' in page
    assert "5 served traces" in page
    assert '<td class="n heat-5">50.0 %</td>' in page  # of two steps with a draft at position 1, one was correct
    assert "The configurations are the same." in page
    reverse = text(clients["viewer"].get("/targets/demo/versions/compare/?v=2&v=1"))
    assert '<span class="badge bad">worse</span>' in reverse


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("v=1", "1 version is chosen: choose 2 to 4"),
        ("v=1&v=99", "demo has no v99"),
        ("v=1&v=x", "is no version number"),
    ],
)
def test_what_cannot_be_compared_is_said(clients, bearer, client, two, query, said):
    answer = clients["viewer"].get(f"/targets/demo/versions/compare/?{query}")
    assert answer.status_code == 422
    assert said in text(answer)
    answer = client.get(f"/api/v1/targets/demo/versions/compare?{query}", **bearer("viewer"))
    assert (answer.status_code, answer["content-type"]) == (422, "application/problem+json")
    assert said in answer.json()["detail"]


def test_the_comparison_is_in_the_api(client, bearer, two):
    found = client.get("/api/v1/targets/demo/versions/compare?v=1&v=2", **bearer("viewer")).json()
    assert [version["number"] for version in found["versions"]] == [1, 2]
    points = found["versions"][1]["points"]
    assert sum(point["tokens"] for point in points) / sum(point["steps"] for point in points) == pytest.approx(
        3, rel=0.1
    )
    [total, sql] = found["measured"]
    assert (total["domain"], sql["domain"]) == ("", "sql")
    change = sql["cells"][1]["change"]
    assert 1.3 < change["low"] < change["value"] < change["high"] < 1.7
    assert sql["cells"][0]["change"] is None
    curves = client.get("/api/v1/targets/demo/versions/curves?v=2&v=1", **bearer("viewer")).json()
    assert [each["replayed"] for each in curves] == [3.0, 1.5]


def test_the_curves_are_a_table_too(clients, client, bearer, two):
    chart = text(clients["viewer"].get("/targets/demo/versions/compare/?v=1&v=2&align=clock"))
    assert 'href="?v=1&amp;v=2&amp;view=table#curves"' in chart and "compare.js" in chart
    page = text(clients["viewer"].get("/targets/demo/versions/compare/?v=1&v=2&align=clock&view=table"))
    assert 'href="?v=1&amp;v=2&amp;align=clock#curves">View as chart' in page
    assert "compare.js" not in page and "data-source" not in page
    table = page[page.index("Accept length over time as a table") : page.index("</table>")]
    curves = client.get("/api/v1/targets/demo/versions/curves?v=1&v=2", **bearer("viewer")).json()
    lines = [(each["number"], point) for each in curves for point in each["points"]]
    assert re.findall(r'<th scope="row">v(\d)<', table) == [str(number) for number, _ in lines]
    for number, point in lines:
        cells = f'<td class="n">{point["tokens"] / point["steps"]:.2f}</td><td class="n">{point["steps"]}</td>'
        assert cells in table[table.index(f">v{number}<") :]
    assert f">v{lines[0][0]}</th>" in table and '<td class="n">0.0 s</td>' in table


def test_positions_count_a_draft_only_when_all_before_it_were_right():
    found = count_positions([[(2, (1, 2, 3)), (0, (1,))], [(1, (1, 2))]])
    assert (found.num_traces, found.proposed, found.correct) == (2, (3, 2, 1), (2, 1, 0))


def test_provenance_is_in_words(make_version):
    version = make_version()
    version.provenance = {
        "argv": ["--steps", "a b"], "num_tokens": 12345, "seed": 10000, "machine": "x86_64, 2 cores",
        "odd_key": [1, 2.5],
    }  # fmt: skip
    assert provenance(version) == [
        ("Machine", "x86_64, 2 cores"),
        ("Command line", "--steps 'a b'"),
        ("Seed", "10000"),
        ("Tokens trained on", "12,345"),
        ("odd key", "1, 2.5"),
    ]
    assert differences([{"a": "1", "b": "2"}, {"a": "1", "c": "3"}]) == [
        ("b", ["2", "not set"]),
        ("c", ["not set", "3"]),
    ]


def test_the_detail_says_when_it_served_and_what_it_measured(clients, two):
    page = text(clients["viewer"].get("/targets/demo/versions/2/"))
    assert '<strong>still</strong></td><td>live</td><td class="n">160</td>' in page
    assert "v1 → v2 by policy" in page
    first = text(clients["viewer"].get("/targets/demo/versions/1/"))
    assert "replaced by v2" in first


@pytest.fixture
def learnt(target, make_version, report):
    """The slice that made v1, out of 4 traces of 30."""
    version = make_version(report({"sql": (2.0, None)}))
    run = TrainingRun.objects.create(target=target)
    piece = TrainingSlice.objects.create(
        run=run, state=SliceState.DONE, version=version, finished_at=timezone.now(), started_at=timezone.now()
    )
    traces.ingest_segment(segment_payload(30))
    traces.acknowledge(piece.pk, traces.lease_fresh(target, piece.pk, 4, 60), [])
    return piece


def test_the_detail_says_what_it_learnt_from(clients, learnt):
    found = learnt_from(learnt.version)
    assert (found.num_slices, found.num_traces, found.domains) == (1, 4, (("sql", 4),))
    found_page = text(clients["viewer"].get("/targets/demo/versions/1/"))
    assert "steps have seen 4 that are still kept, in 1 slice" in found_page


def test_the_windows_of_data_are_compared(clients, client, bearer, learnt, make_version, report):
    """v1 has learnt from 4 traces; v2 is of no slice."""
    make_version(report({"sql": (2.0, None)}))
    page = text(clients["viewer"].get("/targets/demo/versions/compare/?v=1&v=2"))
    origin = page[page.index("Data and origin") :]
    window = learnt_from(learnt.version)
    for label, ours, other in [
        ("New traces that its steps have seen", "4", "none"),
        ("First of them served", said(window.first_at), "none"),
        ("Last of them served", said(window.last_at), "none"),
        ("Of them sql", "4", "0"),
    ]:
        cells = "".join(f'<td class="wrap">{value}</td>' for value in (ours, other))
        assert f'<th scope="row">{label}</th>{cells}' in origin
    found = client.get("/api/v1/targets/demo/versions/compare?v=1&v=2", **bearer("viewer")).json()
    assert [each and (each["num_slices"], each["num_traces"], each["domains"]) for each in found["learnt"]] == [
        (1, 4, {"sql": 4}),
        None,
    ]
    assert datetime.fromisoformat(found["learnt"][0]["last_at"]) == window.last_at.replace(
        microsecond=window.last_at.microsecond // 1000 * 1000
    )


def test_comparing_asks_no_more_of_the_database_however_much_was_learnt_from(clients, target, learnt, make_version):
    make_version()
    address = "/targets/demo/versions/compare/?v=1&v=2"

    def ask():
        with CaptureQueriesContext(connection) as queries:
            clients["viewer"].get(address)
        return len(queries)

    ask()
    few = ask()
    for i in range(20):  # slices before it that made no version are its data too
        at = learnt.finished_at - timedelta(minutes=i + 1)
        piece = TrainingSlice.objects.create(run=learnt.run, state=SliceState.DONE, finished_at=at)
        traces.acknowledge(piece.pk, traces.lease_fresh(target, piece.pk, 1, 60), [])
    assert learnt_from(learnt.version).num_slices == 21
    assert ask() <= few


def test_what_a_slice_was_given_is_not_what_its_steps_have_seen(clients, learnt):
    """A slice has a time: of 24 new traces given its steps may see 4, and the others wait for the next one."""
    SpeculatorVersion.objects.update(provenance={"num_fresh_traces": 24, "num_replay_traces": 100})
    page = text(clients["viewer"].get("/targets/demo/versions/1/"))
    assert "<dt>New traces given to its last slice</dt><dd>24</dd>" in page
    assert "<dt>Older traces that its last slice could draw</dt><dd>100</dd>" in page
    assert "Those that no step has seen wait for the next slice." in page


def test_the_detail_leads_to_the_traces_that_it_learnt_from_and_to_no_others(clients, target, learnt, client, bearer):
    page = text(clients["viewer"].get("/targets/demo/versions/1/"))
    [link] = re.findall(r'href="([^"]*)">These traces', page)
    other = uuid.uuid4()  # another version's slice, which has trained on traces of the same time
    traces.acknowledge(other, traces.lease_fresh(target, other, 5, 60), [])
    listed = text(clients["viewer"].get(html.unescape(link)))
    assert "4 traces match" in listed and f'value="{learnt.pk.hex}"' in listed
    found = client.get("/api/v1/targets/demo/versions/1/learnt", **bearer("viewer")).json()
    assert (found["num_traces"], found["domains"], found["slices"]) == (4, {"sql": 4}, [learnt.pk.hex])
    items = client.get(f"/api/v1/targets/demo/traces?slices={learnt.pk.hex}", **bearer("viewer")).json()["items"]
    assert len(items) == 4
    assert client.get("/api/v1/targets/demo/versions/2/learnt", **bearer("viewer")).status_code == 404


@pytest.mark.parametrize(
    ("slices", "words"), [("x", "'x' is no list of slices"), (",".join(["0" * 32] * 101), "101 ids are too many")]
)
def test_slices_that_are_none_are_named(client, bearer, target, slices, words):
    answer = client.get(f"/api/v1/targets/demo/traces?slices={slices}", **bearer("viewer"))
    assert (answer.status_code, words in answer.json()["detail"]) == (422, True)


@pytest.fixture
def files(make_version, settings, tmp_path):
    """v1 with its files in the versions directory, and a secret beside it."""
    settings.VERSIONS_DIR = tmp_path / "versions"
    folder = tmp_path / "versions" / "v1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    version = make_version()
    SpeculatorVersion.objects.filter(pk=version.pk).update(uri=str(folder))
    return folder


def test_files_have_checksums_and_operators_download_them(clients, files):
    page = text(clients["operator"].get("/targets/demo/versions/1/"))
    assert "Download<span" in page
    assert "link.txt" not in page
    assert "Download<span" not in text(clients["viewer"].get("/targets/demo/versions/1/"))
    headers = {"accept-encoding": "gzip"}  # weights do not pack
    answer = clients["operator"].get("/targets/demo/versions/1/files/model.safetensors", headers=headers)
    assert b"".join(answer) == b"weights" * 1000
    assert answer["Content-Length"] == "7000"
    assert AuditEvent.objects.get(action="version.download").detail == {"file": "model.safetensors"}
    assert clients["viewer"].get("/targets/demo/versions/1/files/model.safetensors").status_code == 403


def test_a_file_that_goes_while_it_is_listed_is_not_listed(clients, files, monkeypatch):
    def read(path):
        path.unlink()  # pruned by the beat
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    answer = clients["operator"].get("/targets/demo/versions/1/")
    assert answer.status_code == 200
    assert "files/config.json" not in text(answer)
    assert "files/model.safetensors" in text(answer)


def test_the_api_gives_files_too(client, bearer, files):
    address, operator = "/api/v1/targets/demo/versions/1", bearer("operator")
    found = {file["name"]: file["sha256"] for file in client.get(address, **operator).json()["files"]}
    assert found["model.safetensors"] == SpeculatorVersion.objects.get().sha256
    assert b"".join(client.get(f"{address}/files/model.safetensors", **operator)) == b"weights" * 1000
    assert AuditEvent.objects.get(action="version.download").actor == "token:operator's"
    gone = client.get(f"{address}/files/link.txt", **operator)
    assert (gone.status_code, gone["content-type"]) == (404, "application/problem+json")


def test_the_api_tells_of_one_version_what_its_page_does(client, bearer, two):
    found = client.get("/api/v1/targets/demo/versions/2", **bearer("viewer")).json()
    assert found["version"]["number"] == 2
    assert found["gate"]["passed"] and found["gate"]["gain"] == pytest.approx(1.0)
    assert [row["domain"] for row in found["gate"]["rows"]] == ["", "sql", "sql"]
    [period] = found["served"]
    assert (period["status"], period["end"], period["num_requests"]) == ("live", None, 160)
    assert [row["new"] for row in found["transitions"]][:1] == ["live"]
    SpeculatorVersion.objects.filter(number=2).update(parent=two[0])
    assert client.get("/api/v1/targets/demo/versions/1", **bearer("viewer")).json()["children"] == [2]
    missing = client.get("/api/v1/targets/demo/versions/9", **bearer("viewer"))
    assert (missing.status_code, missing.json()["detail"]) == (404, "demo has no version 9")


def test_the_api_lists_versions_of_one_status(client, bearer, two):
    address, viewer = "/api/v1/targets/demo/versions?status=", bearer("viewer")
    assert [v["number"] for v in client.get(f"{address}retired", **viewer).json()["items"]] == [1]
    assert "expected one of candidate" in client.get(f"{address}odd", **viewer).json()["detail"]


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("q=v1", [1]),
        ("q=No+version+is+live", [1]),
        ("q=nothing", []),
        ("since={an_hour_ago}", [2]),
        ("since={an_hour_ago}&status=retired", []),
        ("since=0", [2, 1]),
    ],
)
def test_the_api_finds_versions_by_age_and_text_as_the_page_does(client, bearer, two, query, numbers):
    SpeculatorVersion.objects.filter(number=1).update(created_at=timezone.now() - timedelta(hours=2))
    query = query.format(an_hour_ago=(timezone.now() - timedelta(hours=1)).timestamp())
    found = client.get(f"/api/v1/targets/demo/versions?{query}", **bearer("viewer")).json()["items"]
    assert [version["number"] for version in found] == numbers


def test_the_api_has_the_orders_of_the_page_a_page_at_a_time(client, bearer, two):
    def listed(query):
        answer = client.get(f"/api/v1/targets/demo/versions?limit=1&{query}", **bearer("viewer")).json()
        return [version["number"] for version in answer["items"]], answer["next"]

    for sort, (first, second) in {"newest": (2, 1), "oldest": (1, 2), "gain": (2, 1), "loss": (2, 1)}.items():
        numbers, following = listed(f"sort={sort}")
        assert (numbers, listed(f"sort={sort}&cursor={following}")) == ([first], ([second], None)), sort


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("since=noon", "since is 'noon'"),
        (f"q={'x' * 101}", "at most 100"),
        ("sort=size", "sort is 'size', expected one of newest, oldest, gain, loss"),
        ("cursor=x", "expected the value of next"),
    ],
)
def test_the_api_says_what_is_odd_about_a_search_for_versions(client, bearer, two, query, words):
    answer = client.get(f"/api/v1/targets/demo/versions?{query}", **bearer("viewer"))
    assert (answer.status_code, words in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize("name", ["link.txt", "nothing", "..", "%2e%2e%2fsecret.txt"])
def test_nothing_but_the_version_s_own_files_is_given(clients, files, name):
    assert clients["operator"].get(f"/targets/demo/versions/1/files/{name}").status_code == 404


def test_a_directory_outside_of_the_versions_is_not_read(clients, files, settings, tmp_path):
    settings.VERSIONS_DIR = tmp_path / "elsewhere"
    assert clients["operator"].get("/targets/demo/versions/1/files/config.json").status_code == 404
    assert "not in the versions directory" in text(clients["operator"].get("/targets/demo/versions/1/"))


def test_a_superseded_version_shows_why_it_was_rejected(clients, target, two):
    first = SpeculatorVersion.objects.get(number=1)
    SpeculatorVersion.objects.filter(pk=first.pk).update(status=Status.REJECTED)
    Transition.objects.create(version=first, old="passed", new="rejected", reason="superseded by v2", actor="gate")
    page = text(clients["viewer"].get("/targets/demo/versions/"))
    assert "Passed, then rejected: superseded by v2." in page
