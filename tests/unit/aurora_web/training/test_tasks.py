"""What Celery's worker tells the trainer."""

import threading
import uuid

from celery.signals import worker_shutting_down

from aurora_web.training import services, tasks


def test_a_worker_that_is_asked_to_end_tells_its_slice(monkeypatch):
    given = []
    monkeypatch.setattr(services, "execute", lambda slice_id, run_slice: given.append(run_slice.keywords))
    monkeypatch.setattr(tasks, "_stopping", threading.Event())
    tasks.run_slice(uuid.uuid4().hex)
    [keywords] = given
    assert not keywords["is_stopping"]()
    worker_shutting_down.send(sender="trainer@here", sig="SIGTERM", how="Warm", exitcode=0)
    assert keywords["is_stopping"]()
