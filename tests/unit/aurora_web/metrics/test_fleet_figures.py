"""The figures of many targets at once, against the summary of each."""

import time
import uuid
from dataclasses import replace

import pytest

from aurora_web.metrics import services as metrics
from aurora_web.metrics.fleet_figures import fleet_figures
from aurora_web.registry.services import register_target
from tests.unit.aurora_web.conftest import count_window

pytestmark = pytest.mark.django_db


def test_each_target_has_the_figures_of_its_summary(target, checkpoint_dir):
    other = register_target(path=str(checkpoint_dir), actor="test", slug="other", name="Other")
    silent = register_target(path=str(checkpoint_dir), actor="test", slug="silent", name="Silent")
    windows = [
        count_window(version=1, seconds=0.5), count_window(version=2, seconds=0.4, domain="prose"),
        count_window(version=2, lookahead=0, seconds=2.0), count_window(version=0, seconds=1.0),
        count_window(version=0, seconds=0.9, domain="prose"),
        replace(count_window(version=3, seconds=0.7), target="other"),
    ]  # fmt: skip
    earlier = [
        replace(w, window_id=uuid.uuid4().hex, started_at=w.started_at - 300, ended_at=w.ended_at - 300)
        for w in windows
    ]
    pks, now = [target.pk, other.pk, silent.pk], time.time()
    metrics.ingest_counts({"counts": [w.to_json() for w in earlier]})
    metrics.roll_up()
    half = fleet_figures(pks, 600.0, now)
    metrics.ingest_counts({"counts": [w.to_json() for w in windows]})
    metrics.roll_up()
    found = fleet_figures(pks, 600.0, now)
    assert sum(found[target.pk].tokens_by_version.values()) == 2 * sum(half[target.pk].tokens_by_version.values())
    for each in (target, other, silent):
        total, ours = metrics.summary(each)["total"], found[each.pk].to_json()
        for name in ("accept_length", "tokens_per_second", "control_tokens_per_second"):
            assert ours[name] == (None if total[name] is None else pytest.approx(total[name])), name
        assert ours["speedup"]["reason"] == total["speedup"]["reason"]
        for name in ("value", "low", "high"):
            expected = total["speedup"][name]
            assert ours["speedup"][name] == (None if expected is None else pytest.approx(expected))
    assert found[target.pk].speedup.value is not None
    assert set(found[target.pk].tokens_by_version) == {0, 1, 2}
    assert set(found[other.pk].tokens_by_version) == {3}
