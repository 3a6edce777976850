"""What is answered about training, against the API's document."""

import pytest
from django.utils import timezone

from aurora_web.traces import services as traces
from aurora_web.training import control
from aurora_web.training.models import SliceState, TrainingRun, TrainingSlice
from tests.unit.aurora_web.conftest import segment_payload
from tests.unit.aurora_web.documented import as_json

pytestmark = pytest.mark.django_db


def test_the_pause_and_a_slice_at_once(ask, target):
    traces.ingest_segment(segment_payload())
    assert ask("GET", "/targets/{slug}/training", slug="demo")["is_paused"] is False
    answer = ask("POST", "/targets/{slug}/training/pause", {"reason": "holidays"}, slug="demo")
    assert answer == as_json(control.control_payload(target, control.paused(target)))
    assert ask("GET", "/targets/{slug}/training", slug="demo") == answer
    assert ask("POST", "/targets/{slug}/training/resume", slug="demo")["is_paused"] is False
    queued = ask("POST", "/targets/{slug}/training/now", slug="demo")
    assert queued == {"target": "demo", "slice": TrainingSlice.objects.get().pk.hex, "state": "queued"}


def test_what_a_version_learnt_from(ask, target, make_version):
    at = {"started_at": timezone.now(), "finished_at": timezone.now()}
    run = TrainingRun.objects.create(target=target)
    piece = TrainingSlice.objects.create(run=run, state=SliceState.DONE, version=make_version(), **at)
    traces.ingest_segment(segment_payload(30))
    traces.acknowledge(piece.pk, traces.lease_fresh(target, piece.pk, 4, 60), [])
    found = ask("GET", "/targets/{slug}/versions/{number}/learnt", slug="demo", number=1)
    assert (found["domains"], found["slices"]) == ({"sql": 4}, [piece.pk.hex])
