from __future__ import annotations

from aurora_web.celery import app
from aurora_web.traces import services


@app.task(name="traces.maintain")
def maintain() -> None:
    services.maintain()
