"""The permission matrix: every address x anonymous, viewer, operator, admin, for pages, forms and the API."""

from contextlib import contextmanager

import pytest
from django.db import transaction
from django.urls import get_resolver

from aurora_web.accounts.services import create_token
from aurora_web.api import api
from aurora_web.registry.services import transition

pytestmark = pytest.mark.django_db

TRACE = "00000000-0000-0000-0000-000000000001"
READ, INGEST, OPERATE, REGISTER, ADMINISTER = SCOPE_NAMES = ("read", "ingest", "operate", "register", "administer")
ALLOWED = {
    READ: {"viewer", "operator", "admin"},
    INGEST: {"replica"},
    OPERATE: {"operator", "admin"},
    REGISTER: {"operator", "admin"},
    ADMINISTER: {"admin"},
}
PAGES = {
    ("GET", "/"): READ,
    ("GET", "/activity/"): READ,
    ("GET", "/audit/"): READ,
    ("GET", "/audit/1/"): READ,
    ("GET", "/alerts/"): READ,
    ("GET", "/alerts/rules/"): READ,
    ("POST", "/alerts/rules/"): ADMINISTER,
    ("GET", "/alerts/silences/new/"): OPERATE,
    ("POST", "/alerts/silences/new/"): OPERATE,
    ("POST", "/alerts/silences/1/end/"): OPERATE,
    ("GET", "/alerts/channels/"): ADMINISTER,
    ("POST", "/alerts/channels/"): ADMINISTER,
    ("POST", "/alerts/channels/1/test/"): ADMINISTER,
    ("POST", "/alerts/channels/1/remove/"): ADMINISTER,
    ("GET", "/inbox/"): READ,
    ("GET", "/settings/"): READ,
    ("GET", "/settings/preferences/"): READ,
    ("POST", "/settings/preferences/"): READ,
    ("POST", "/settings/theme/"): READ,
    ("GET", "/settings/policies/"): READ,
    ("GET", "/settings/retention/"): READ,
    ("POST", "/settings/retention/"): ADMINISTER,
    ("GET", "/targets/"): READ,
    ("GET", "/targets/new/"): REGISTER,
    ("GET", "/targets/new/bulk/"): REGISTER,
    ("GET", f"/targets/new/{TRACE}/source/"): REGISTER,
    ("POST", f"/targets/new/{TRACE}/source/"): REGISTER,
    ("GET", f"/targets/new/{TRACE}/check/"): REGISTER,
    ("GET", f"/targets/new/{TRACE}/plan/"): REGISTER,
    ("POST", f"/targets/new/{TRACE}/plan/"): REGISTER,
    ("GET", f"/targets/new/{TRACE}/review/"): REGISTER,
    ("POST", f"/targets/new/{TRACE}/review/"): REGISTER,
    ("GET", f"/targets/new/{TRACE}/bulk/"): REGISTER,
    ("POST", f"/targets/new/{TRACE}/bulk/"): REGISTER,
    ("GET", f"/targets/new/{TRACE}/servers/"): REGISTER,
    ("POST", f"/targets/new/{TRACE}/token/"): REGISTER,
    ("POST", f"/targets/new/{TRACE}/discard/"): REGISTER,
    ("POST", f"/targets/new/{TRACE}/save/source/"): REGISTER,
    ("GET", "/targets/demo/"): READ,
    ("GET", "/targets/demo/versions/"): READ,
    ("GET", "/targets/demo/connection/"): READ,
    ("GET", "/targets/demo/standing/"): READ,
    ("GET", "/targets/demo/launch/"): READ,
    ("GET", "/targets/demo/replicas/"): READ,
    ("GET", "/targets/demo/settings/"): READ,
    ("GET", "/targets/demo/parts/"): READ,
    ("GET", "/targets/demo/versions/compare/"): READ,
    ("GET", "/targets/demo/versions/1/files/config.json"): OPERATE,
    ("GET", "/targets/demo/swaps/1/"): READ,
    ("GET", "/replicas/"): READ,
    ("GET", "/approvals/"): READ,
    ("GET", "/approvals/1/"): READ,
    ("POST", "/approvals/1/judge/"): OPERATE,
    ("GET", "/rollback/"): OPERATE,
    ("GET", "/targets/demo/rollback/"): OPERATE,
    ("GET", "/targets/demo/versions/1/"): READ,
    ("POST", "/targets/demo/settings/"): OPERATE,
    ("POST", "/targets/demo/replica-token/"): OPERATE,
    ("POST", "/targets/demo/training/pause/"): OPERATE,
    ("POST", "/targets/demo/training/resume/"): OPERATE,
    ("POST", "/targets/demo/training/now/"): OPERATE,
    ("POST", "/targets/demo/freeze/"): OPERATE,
    ("POST", "/targets/demo/unfreeze/"): OPERATE,
    ("POST", "/targets/demo/traffic/"): OPERATE,
    ("POST", "/targets/demo/rollback/"): OPERATE,
    ("POST", "/targets/demo/resume/"): OPERATE,
    ("POST", "/targets/demo/versions/1/approve/"): OPERATE,
    ("POST", "/targets/demo/versions/1/reject/"): OPERATE,
    ("POST", "/targets/demo/versions/1/promote/"): OPERATE,
    ("POST", "/targets/demo/versions/1/abort/"): OPERATE,
    ("GET", "/targets/demo/traces/"): READ,
    ("GET", "/targets/demo/traces/export/"): READ,
    ("POST", "/targets/demo/traces/access/"): ADMINISTER,
    ("GET", f"/targets/demo/traces/{TRACE}/"): READ,
    ("POST", f"/targets/demo/traces/{TRACE}/delete/"): OPERATE,
    ("GET", "/targets/demo/playground/"): READ,
    ("POST", "/targets/demo/playground/play/"): OPERATE,
    ("GET", "/targets/demo/domains/"): READ,
    ("POST", "/targets/demo/domains/"): OPERATE,
    ("POST", "/targets/demo/domains/rules/1/end/"): OPERATE,
    ("GET", "/targets/demo/domains/pins/"): READ,
    ("POST", "/targets/demo/domains/pins/1/undo/"): OPERATE,
    ("GET", "/targets/demo/economics/"): READ,
    ("POST", "/targets/demo/economics/"): OPERATE,
    ("GET", "/targets/demo/economics/csv/"): READ,
    ("GET", "/system/"): READ,
    ("GET", "/system/processes/"): READ,
    ("GET", "/help/"): READ,
    ("GET", "/api/docs"): READ,
    ("GET", "/accounts/people/"): ADMINISTER,
    ("POST", "/accounts/people/invite/"): ADMINISTER,
    ("POST", "/accounts/people/invites/1/revoke/"): ADMINISTER,
    ("POST", "/accounts/people/1/role/"): ADMINISTER,
    ("POST", "/accounts/people/1/active/"): ADMINISTER,
    ("GET", "/accounts/tokens/"): ADMINISTER,
    ("POST", "/accounts/tokens/"): ADMINISTER,
    ("POST", "/accounts/tokens/1/revoke/"): ADMINISTER,
}
API = {
    ("GET", "/api/v1/targets"): READ,
    ("POST", "/api/v1/targets"): REGISTER,
    ("POST", "/api/v1/targets/check"): REGISTER,
    ("POST", "/api/v1/targets/bulk"): REGISTER,
    ("GET", "/api/v1/announced"): READ,
    ("GET", "/api/v1/packages"): READ,
    ("POST", "/api/v1/announced/token"): REGISTER,
    ("POST", "/api/v1/ingest/announce"): INGEST,
    ("POST", "/api/v1/ingest/traffic"): INGEST,
    ("GET", "/api/v1/targets/demo"): READ,
    ("PATCH", "/api/v1/targets/demo"): OPERATE,
    ("GET", "/api/v1/targets/demo/versions"): READ,
    ("GET", "/api/v1/targets/demo/versions/1"): READ,
    ("GET", "/api/v1/targets/demo/versions/1/files/config.json"): OPERATE,
    ("GET", "/api/v1/targets/demo/metrics"): READ,
    ("GET", "/api/v1/targets/demo/series?since=0"): READ,
    ("GET", "/api/v1/targets/demo/replicas"): READ,
    ("GET", "/api/v1/targets/demo/alerts"): READ,
    ("GET", "/api/v1/targets/demo/swaps"): READ,
    ("GET", "/api/v1/targets/demo/swaps/1"): READ,
    ("GET", "/api/v1/targets/demo/versions/compare?v=1"): READ,
    ("GET", "/api/v1/targets/demo/versions/curves?v=1"): READ,
    ("GET", "/api/v1/approvals"): READ,
    ("GET", "/api/v1/replicas"): READ,
    ("POST", "/api/v1/versions/{version}/judge"): OPERATE,
    ("GET", "/api/v1/targets/demo/launch"): READ,
    ("GET", "/api/v1/targets/demo/traces"): READ,
    ("GET", "/api/v1/targets/demo/traces/export"): READ,
    ("GET", f"/api/v1/targets/demo/traces/{TRACE}"): READ,
    ("DELETE", f"/api/v1/targets/demo/traces/{TRACE}"): OPERATE,
    ("GET", "/api/v1/targets/demo/trace-access"): READ,
    ("PATCH", "/api/v1/targets/demo/trace-access"): ADMINISTER,
    ("GET", "/api/v1/targets/demo/domains"): READ,
    ("GET", "/api/v1/targets/demo/domains.csv"): READ,
    ("GET", "/api/v1/targets/demo/slices"): READ,
    ("GET", "/api/v1/system"): READ,
    ("GET", "/api/v1/retention"): READ,
    ("PATCH", "/api/v1/retention"): ADMINISTER,
    ("GET", "/api/v1/targets/demo/economics"): READ,
    ("PATCH", "/api/v1/targets/demo/costs"): OPERATE,
    ("GET", "/api/v1/targets/demo/domain-rules"): READ,
    ("POST", "/api/v1/targets/demo/domain-rules"): OPERATE,
    ("DELETE", "/api/v1/targets/demo/domain-rules/1"): OPERATE,
    ("GET", "/api/v1/targets/demo/pins"): READ,
    ("GET", "/api/v1/targets/demo/pins/changes"): READ,
    ("GET", "/api/v1/targets/demo/versions/1/learnt"): READ,
    ("POST", "/api/v1/targets/demo/pins/1/undo"): OPERATE,
    ("GET", "/api/v1/targets/demo/domains/config.json/pin"): READ,
    ("PUT", "/api/v1/targets/demo/domains/config.json/pin"): OPERATE,
    ("DELETE", "/api/v1/targets/demo/domains/config.json/pin"): OPERATE,
    ("GET", "/api/v1/targets/demo/state"): READ,
    ("GET", "/api/v1/targets/demo/charts"): READ,
    ("GET", "/api/v1/targets/demo/charts.csv"): READ,
    ("GET", "/api/v1/targets/demo/events"): READ,
    ("GET", "/api/v1/targets/demo/training"): READ,
    ("POST", "/api/v1/targets/demo/training/pause"): OPERATE,
    ("POST", "/api/v1/targets/demo/training/resume"): OPERATE,
    ("POST", "/api/v1/targets/demo/training/now"): OPERATE,
    ("GET", "/api/v1/targets/demo/freeze"): READ,
    ("POST", "/api/v1/targets/demo/freeze"): OPERATE,
    ("POST", "/api/v1/targets/demo/unfreeze"): OPERATE,
    ("POST", "/api/v1/targets/demo/replica-token"): OPERATE,
    ("POST", "/api/v1/targets/demo/rollback"): OPERATE,
    ("POST", "/api/v1/targets/demo/resume"): OPERATE,
    ("POST", "/api/v1/versions/{version}/approve"): OPERATE,
    ("POST", "/api/v1/versions/{version}/reject"): OPERATE,
    ("POST", "/api/v1/versions/{version}/canary/promote"): OPERATE,
    ("POST", "/api/v1/versions/{version}/canary/abort"): OPERATE,
    ("GET", "/api/v1/alerts"): READ,
    ("GET", "/api/v1/alerts/rules/demo"): READ,
    ("PUT", "/api/v1/alerts/rules/demo/replica_behind"): ADMINISTER,
    ("GET", "/api/v1/alerts/silences"): READ,
    ("POST", "/api/v1/alerts/silences"): OPERATE,
    ("DELETE", "/api/v1/alerts/silences/1"): OPERATE,
    ("GET", "/api/v1/alerts/channels"): ADMINISTER,
    ("POST", "/api/v1/alerts/channels"): ADMINISTER,
    ("DELETE", "/api/v1/alerts/channels/1"): ADMINISTER,
    ("POST", "/api/v1/alerts/channels/1/test"): ADMINISTER,
    ("GET", "/api/v1/alerts/channels/1/deliveries"): ADMINISTER,
    ("GET", "/api/v1/audit"): READ,
    ("GET", "/api/v1/audit/1"): READ,
    ("GET", "/api/v1/audit/export"): READ,
    ("GET", "/api/v1/tokens"): ADMINISTER,
    ("POST", "/api/v1/tokens"): ADMINISTER,
    ("DELETE", "/api/v1/tokens/1"): ADMINISTER,
    ("GET", "/api/v1/users"): ADMINISTER,
    ("PATCH", "/api/v1/users/1"): ADMINISTER,
    ("GET", "/api/v1/me"): READ,
    ("PATCH", "/api/v1/me"): READ,
    ("GET", "/api/v1/invites"): ADMINISTER,
    ("POST", "/api/v1/invites"): ADMINISTER,
    ("DELETE", "/api/v1/invites/1"): ADMINISTER,
    ("POST", "/api/v1/ingest/segments"): INGEST,
    ("POST", "/api/v1/ingest/counts"): INGEST,
    ("POST", "/api/v1/ingest/observed"): INGEST,
    ("GET", "/api/v1/targets/demo/desired"): INGEST,
    ("GET", "/api/v1/traffic"): INGEST,
    ("GET", "/api/v1/engines"): INGEST,
}


@pytest.fixture
def version(make_version):
    found = make_version()
    transition(found, "candidate", "passed", "", "gate")
    return found


@contextmanager
def undone():
    """What is written inside is taken back: the next one who asks finds the same rows."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@pytest.mark.parametrize(("method", "path"), PAGES)
def test_pages(clients, version, method, path):
    for role, browser in clients.items():
        with undone():
            answer = browser.generic(method, path)
        if role == "anonymous":
            assert answer.status_code == 302
            assert answer["location"].startswith("/accounts/login/")
        elif role in ALLOWED[PAGES[method, path]]:
            assert answer.status_code in (200, 302, 404, 409, 422), role  # allowed; what it says is tested elsewhere
            assert not answer.get("location", "").startswith("/accounts/login/"), role
        else:
            assert answer.status_code == 403, role


@pytest.mark.parametrize(("method", "path"), API)
def test_api(client, bearer, version, method, path):
    for role in ("anonymous", "viewer", "operator", "admin", "replica"):
        headers = {} if role == "anonymous" else bearer(role)
        body = {"data": "{}", "content_type": "application/json"}
        with undone():
            answer = client.generic(method, path.format(version=version.pk), **body, **headers)
        if role == "anonymous":
            assert answer.status_code == 401
            assert answer["content-type"] == "application/problem+json"
        elif role in ALLOWED[API[method, path]]:
            assert answer.status_code not in (401, 403), role
            assert answer.status_code < 500, role
        else:
            assert answer.status_code == 403, role


@pytest.mark.parametrize(("method", "path"), API)
def test_a_token_with_one_scope_may_what_that_scope_is_for_and_nothing_else(client, version, method, path):
    for scope in SCOPE_NAMES:
        _, secret = create_token("one", "", "test", scopes=[scope])
        body = {"data": "{}", "content_type": "application/json", "HTTP_AUTHORIZATION": f"Bearer {secret}"}
        with undone():
            answer = client.generic(method, path.format(version=version.pk), **body)
        if scope == API[method, path]:
            assert answer.status_code not in (401, 403)
            assert answer.status_code < 500
        else:
            assert answer.status_code == 403, scope
            assert answer["content-type"] == "application/problem+json"
            assert answer.json()["missing_scope"] == API[method, path]
            assert repr(API[method, path]) in answer.json()["detail"]


NAMES = {
    "<str:slug>": "demo",
    "<int:number>": "1",
    "<int:pk>": "1",
    "{slug}": "demo",
    "{event_id}": "1",
    "{revision}": "1",
    "{token_id}": "1",
    "{silence_id}": "1",
    "{channel_id}": "1",
    "{rule}": "replica_behind",
    "{user_id}": "1",
    "{invite_id}": "1",
    "{version_id}": "{version}",
    "<int:version_id>": "1",
    "<int:rule_id>": "1",
    "<int:revision>": "1",
    "{rule_id}": "1",
    "<trace_id:trace_id>": TRACE,
    "<uuid:draft_id>": TRACE,
    "<str:step>": "source",
    "{trace_id}": TRACE,
    "<str:name>": "config.json",
    "{name}": "config.json",
    "<int:generation>": "1",
    "{generation}": "1",
    "{number}": "1",
}
PUBLIC = {  # what a GET is answered to somebody who has not signed in, and to whoever has
    "healthz": (200, 200),
    "readyz": (200, 200),
    "metrics": (200, 200),
    "api/": (404, 404),
    "api/openapi.json": (200, 200),  # the document in docs/, which everybody may read
    "accounts/login/": (200, 302),
    "accounts/logout/": (405, 405),
    "accounts/oidc/login/": (404, 404),  # no provider is set
    "accounts/oidc/callback/": (404, 404),
    "accounts/invite/<str:secret>/": (410, 410),  # no such invite
}


def concrete(route):
    for name, value in NAMES.items():
        route = route.replace(name, value)
    return route


def test_every_page_and_method_is_in_the_matrix():
    """A new address, or a new method of one, must be given a role here, or be listed as public."""
    served = set()
    for route, view in _routes(get_resolver().url_patterns):
        if route not in PUBLIC and not route.startswith("api/v1/"):
            assert hasattr(view, "allowed_methods"), f"{route} lets everybody in: decorate its view with allow()"
            served |= {(method, f"/{concrete(route)}") for method in view.allowed_methods if method != "HEAD"}
    assert served == set(PAGES)


@pytest.mark.parametrize("route", PUBLIC)
def test_public_addresses_say_the_same_to_everybody(clients, target, route):
    for role, browser in clients.items():
        expected = PUBLIC[route][role != "anonymous"]
        assert browser.get(f"/{route.replace('<str:secret>', 'nothing')}").status_code == expected, role


def test_every_operation_of_the_api_is_in_the_matrix():
    document = api.get_openapi_schema()
    served = {
        (method.upper(), concrete(path))
        for path, operations in document["paths"].items()
        for method in operations
        if method in ("get", "post", "put", "patch", "delete")
    }
    assert served == {(method, path.split("?")[0]) for method, path in API}
    hidden = {route for route, _ in _routes(get_resolver().url_patterns) if route.startswith("api/v1")}
    assert len(hidden) == len(document["paths"]), "an address of the API is left out of the document"


def _routes(patterns, prefix=""):
    for pattern in patterns:
        route = prefix + str(pattern.pattern)
        if hasattr(pattern, "url_patterns"):
            yield from _routes(pattern.url_patterns, route)
        else:
            yield route, pattern.callback


def test_policy_is_for_admins(client, bearer, target):
    change = {"data": '{"min_gain": 0.5}', "content_type": "application/json"}
    assert client.patch("/api/v1/targets/demo", **change, **bearer("operator")).status_code == 403
    assert client.patch("/api/v1/targets/demo", **change, **bearer("admin")).json()["min_gain"] == 0.5


def test_sessions_need_a_csrf_token_for_changes(users, version):
    from django.test import Client

    browser = Client(enforce_csrf_checks=True)
    browser.force_login(users["admin"])
    assert browser.post(f"/api/v1/versions/{version.pk}/approve").status_code == 403
    assert browser.post("/targets/demo/resume/").status_code == 403


def test_a_part_of_a_page_is_not_replaced_by_the_sign_in_page(clients):
    answer = clients["anonymous"].get("/targets/demo/parts/?part=figures", HTTP_HX_REQUEST="true")
    assert answer.status_code == 401


def test_signing_in_leads_back_to_the_page_of_a_form(clients):
    browser = clients["anonymous"]
    path = "/targets/demo/versions/1/approve/"
    here = browser.post(path, headers={"referer": "http://testserver/approvals/7/"})
    assert here["location"] == "/accounts/login/?next=/approvals/7/"
    for referer in ("http://elsewhere/approvals/7/", ""):
        assert browser.post(path, headers={"referer": referer})["location"] == "/accounts/login/?next=/"
