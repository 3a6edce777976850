"""What the benchmark of the pages asks: every address of it is answered on a database that its own code has filled."""

import time

import pytest
from django.db import connection
from django.test import Client

from aurora_web.accounts.models import User
from tests.bench.bench_pages import api_addresses, pages
from tests.bench.full_database import Size, fill
from tests.unit.serving.tiny import make_checkpoint

TINY = Size(
    num_targets=4, num_versions=28, num_busy_versions=16, busy_every=7200, other_every=86_400, num_traces=2000,
    num_audit_events=100,
)  # fmt: skip


@pytest.fixture
def browser(db, settings):
    settings.WHITENOISE_AUTOREFRESH = True
    with connection.cursor() as cursor:
        fill(cursor, TINY, time.time())
    found = Client()
    found.force_login(User.objects.get(username="ada"))
    return found


def test_every_address_that_the_benchmark_asks_is_answered(browser, tmp_path):
    asked = [*pages(browser, make_checkpoint(tmp_path / "tiny")), *api_addresses()]
    answers = {path: browser.get(path).status_code for path in asked}
    assert {path: status for path, status in answers.items() if status != 200} == {}
    found = browser.get(next(path for path in asked if path.endswith("/learnt"))).json()
    assert found["num_slices"] > 0 and found["num_traces"] > 0  # as it is asked on a console that learns
