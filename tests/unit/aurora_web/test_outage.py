"""A database that does not answer is no bug: 503 and a page that tries again; a bug is 500 with its request's id."""

import time

import pytest
from django.db import OperationalError, connection
from django.test import Client

from aurora_web.outage import seconds_in_order


@pytest.fixture
def browser(users):
    client = Client(raise_request_exception=False)
    client.force_login(users["viewer"])
    return client


@pytest.fixture
def outage(monkeypatch):
    """The pool has no connection to give, as when Postgres is down."""

    def refuse(*_, **__):
        raise OperationalError("couldn't get a connection after 10.00 sec")

    return lambda: monkeypatch.setattr(connection, "cursor", refuse)


@pytest.mark.django_db
def test_pages_say_that_the_database_is_away_and_try_again(browser, target, outage):
    outage()
    answer = browser.get("/targets/demo/")
    page = answer.content.decode()
    assert (answer.status_code, answer["retry-after"]) == (503, "5")
    assert 'js/again.js" data-seconds="5"' in page
    assert "The database does not answer" in page
    assert answer["x-request-id"] in page
    assert "couldn't get a connection" not in page


@pytest.mark.django_db
def test_the_api_says_so_too_wherever_it_was_noticed(browser, target, outage):
    outage()
    answer = browser.get("/api/v1/targets/demo")
    assert (answer.status_code, answer["content-type"]) == (503, "application/problem+json")
    assert "the database is not available" in answer.json()["detail"]


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["/targets/demo/", "/api/v1/targets/demo"])
def test_an_outage_is_remembered(browser, target, outage, monkeypatch, address):
    monkeypatch.setattr("aurora_web.outage._in_order_since", time.monotonic() - 3600)
    browser.get(address)
    assert seconds_in_order() >= 3600
    outage()
    browser.get(address)
    assert seconds_in_order() < 3600


@pytest.mark.django_db
def test_a_bug_is_told_from_it(browser, target, monkeypatch):
    monkeypatch.setattr("aurora_web.console.targets.time_range", lambda given: 1 / 0)
    answer = browser.get("/targets/demo/")
    page = answer.content.decode()
    assert answer.status_code == 500
    assert "retry-after" not in answer
    assert "http-equiv" not in page
    assert answer["x-request-id"] in page
    assert "ZeroDivision" not in page
