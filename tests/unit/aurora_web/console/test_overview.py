"""The overview: cards with figures, filters in the address, and few questions for many targets."""

import uuid

import pytest
from django.utils import timezone

from aurora_web.console.cards import cards, chosen_cards
from aurora_web.console.sparkline import HEIGHT, WIDTH, shares, sparkline, version_name
from aurora_web.metrics import services as metrics
from aurora_web.metrics.models import MetricWindow
from aurora_web.registry.models import Target
from aurora_web.registry.services import register_target
from aurora_web.rollouts import freeze, replicas, services
from aurora_web.rollouts.models import Alert, Replica
from aurora_web.traces import governance
from speculators.records import NO_DRAFT
from tests.unit.aurora_web.conftest import count_window

pytestmark = pytest.mark.django_db


def text(answer):
    return " ".join(answer.content.decode().split())


def window(target, version=1, minutes=0.0, tokens=100):
    return MetricWindow(
        target=target, started_at=timezone.now() - timezone.timedelta(minutes=minutes), domain="sql", version=version,
        lookahead=4 if version else 0, batch_bucket=1, num_requests=10, num_verify_steps=50, num_proposed_drafts=200,
        num_correct_drafts=50, num_accept_tokens=tokens, decode_seconds=1.0, sum_xx=1.0, sum_yy=1.0, sum_xy=1.0,
    )  # fmt: skip


def test_a_card_shows_line_shares_and_what_waits(clients, target, make_version, report, observed):
    services.judge(make_version())
    freeze.freeze(target, "olga")
    services.judge(make_version(report({"sql": (2.0, 1.5)})))
    replicas.observe(observed())
    MetricWindow.objects.bulk_create([window(target, 1, m, 100 + 5 * m) for m in range(8)] + [window(target, 0, 0)])
    page = text(clients["viewer"].get("/"))
    assert 'aria-label="accept length over 30 minutes: from 2.70 to 2.00"' in page
    assert "v1 90 %" in page and "control 10 %" in page
    assert "1 to approve" in page and ">frozen<" in page and "needs a person" in page


def test_states_filters_and_orders_are_in_the_address(clients, target, checkpoint_dir, observed):
    for slug in ("b-down", "c-off"):
        register_target(path=str(checkpoint_dir), actor="test", slug=slug)
    Target.objects.filter(slug="c-off").update(is_active=False)
    replicas.observe(observed())
    Alert.objects.create(
        target=target, rule="swap_failed", state="firing", detail="r1 could not swap.", since=timezone.now()
    )
    found = {card.target.slug: card.state for card in cards()}
    assert found == {"demo": "attention", "b-down": "down", "c-off": "inactive"}
    assert [card.target.slug for card in chosen_cards(cards(), "", "", "attention")] == ["demo", "b-down", "c-off"]
    assert [card.target.slug for card in chosen_cards(cards(), "DOWN", "", "name")] == ["b-down"]
    Replica.objects.update(is_alive=False)  # with the alert that follows, it needs a person, and is down
    assert [card.target.slug for card in chosen_cards(cards(), "", "down", "name")] == ["b-down", "demo"]
    assert [card.target.slug for card in chosen_cards(cards(), "", "attention", "name")] == ["demo"]
    page = text(clients["viewer"].get("/?state=inactive&sort=attention"))
    assert "/targets/c-off/" in page and "/targets/b-down/" not in page
    assert 'hx-get="/?state=inactive&amp;sort=attention"' in page
    assert "No target matches" in text(clients["viewer"].get("/?q=nothing"))
    assert "/targets/demo/" in text(clients["viewer"].get("/?state=bogus&sort=bogus"))


def test_orders_by_measured_figures(target, checkpoint_dir):
    other = register_target(path=str(checkpoint_dir), actor="test", slug="z-fast")
    MetricWindow.objects.bulk_create([window(target, tokens=60), window(other, tokens=150)])
    assert [card.target.slug for card in chosen_cards(cards(), "", "", "accept_length")] == ["z-fast", "demo"]


def test_the_first_steps_go_when_somebody_has_registered(clients, db, checkpoint_dir):
    assert "starts a small model with traffic of its own" in text(clients["operator"].get("/"))
    register_target(path=str(checkpoint_dir), actor="supervisor", slug="demo")
    page = text(clients["operator"].get("/"))
    assert "see it get faster" in page and "First steps" in page
    register_target(path=str(checkpoint_dir), actor="olga", slug="mine")
    assert "First steps" not in text(clients["operator"].get("/"))


def test_fifty_targets_are_asked_for_at_once(clients, target, django_assert_max_num_queries):
    clients["viewer"].get("/")
    rows = [Target(slug=f"t{i}", name=f"t{i}", path="/x", architecture="LlamaForCausalLM", num_layers=8,
                   hidden_size=32, vocab_size=61, created_by="test") for i in range(50)]  # fmt: skip
    rows = Target.objects.bulk_create(rows)
    now = timezone.now()
    Replica.objects.bulk_create(
        Replica(target=t, name="r1", engine="e", url="", generation=1, version=1, state="serving", swap_ms=0.1,
                probe_accept_length=0, probe_num_steps=0, num_running=0, num_dropped_traces=0, spool_bytes=0,
                reported_at=now, seen_at=now) for t in rows)  # fmt: skip
    MetricWindow.objects.bulk_create([window(t, v, m) for t in rows for v in (0, 1) for m in range(9)])
    with django_assert_max_num_queries(22):
        assert clients["viewer"].get("/").content.count(b'class="card"') == 51


def test_the_socket_of_the_overview_gets_the_same_cards(target, observed, django_assert_max_num_queries):
    from aurora_web.snapshots import overview_snapshot

    replicas.observe(observed())
    metrics.ingest_counts({"counts": [count_window().to_json()]})
    metrics.roll_up()
    with django_assert_max_num_queries(12):
        (line,) = overview_snapshot()["targets"]
    assert (line["slug"], line["num_alive"]) == ("demo", 1)
    assert line["total"]["accept_length"] == pytest.approx(2.0, rel=0.01)


def test_a_line_stays_in_its_box_and_noise_is_no_mountain():
    found = sparkline([(0, 2.0), (50, 2.01), (100, 2.0)], 0, 100)
    ys = [float(p.split(",")[1]) for p in found.points.split()]
    xs = [float(p.split(",")[0]) for p in found.points.split()]
    assert max(ys) - min(ys) < HEIGHT / 10
    wild = sparkline([(0, 1.0), (50, 5.0), (100, 1.0)], 0, 100)
    ys += [float(p.split(",")[1]) for p in wild.points.split()]
    assert 0 <= min(ys) <= max(ys) <= HEIGHT
    assert 0 <= min(xs) <= max(xs) <= WIDTH
    assert sparkline([(0, 1.0)], 0, 100) is None


def test_shares_add_up_to_the_whole_bar():
    found = shares({0: 10, **dict.fromkeys(range(1, 8), 10)})
    assert [s.name for s in found] == ["v4", "v3", "v2", "v1", "older", "control"]
    assert sum(s.width for s in found) == pytest.approx(100, abs=0.1)
    early = shares({NO_DRAFT: 10, 0: 10, 1: 20})
    assert [(s.name, s.width) for s in early] == [("v1", 50), ("control", 25), ("no draft yet", 25)]
    assert shares({}) == ()


def test_what_waits_after_a_rollback_waits_for_a_person(clients, target, make_version, report):
    services.judge(make_version())
    services.judge(make_version(report({"sql": (2.0, 1.5)})))
    services.rollback(target, "olga")
    services.judge(make_version(report({"sql": (3.0, 1.5)})))
    page = text(clients["viewer"].get("/?state=attention"))
    assert "1 to approve" in page and "held after a rollback" in page


def test_a_reading_is_in_the_audit_log_and_not_among_what_happened(clients, target):
    governance.note_reading(target, uuid.uuid4(), "olga")
    assert "read the text" not in text(clients["viewer"].get("/"))
    assert "trace.read" in text(clients["viewer"].get("/audit/"))


def test_what_is_no_version_has_a_name_of_its_own():
    assert [version_name(number) for number in (3, 0, NO_DRAFT)] == ["v3", "control", "no draft yet"]
