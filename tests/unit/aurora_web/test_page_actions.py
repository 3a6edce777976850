"""Every form of a page has an operation of the API that does the same, or a reason why a script has no use for one."""

import csv
import io

import pytest
from django.urls import get_resolver

from tests.unit.aurora_web.accounts.test_access import API, PAGES, PUBLIC, TRACE, _routes, concrete

DRAFT = "keeps what a person has typed in the wizard; a script sends a whole registration at once"
SIGN_IN = "signs a person in or out; a script has a token"
# Page's address -> the operations that do what its forms do, or why there are none.
ACTIONS: dict[str, list[str] | str] = {
    "/alerts/rules/": ["PUT /api/v1/alerts/rules/demo/replica_behind"],
    "/alerts/silences/new/": ["POST /api/v1/alerts/silences"],
    "/alerts/silences/1/end/": ["DELETE /api/v1/alerts/silences/1"],
    "/alerts/channels/": ["POST /api/v1/alerts/channels"],
    "/alerts/channels/1/test/": ["POST /api/v1/alerts/channels/1/test"],
    "/alerts/channels/1/remove/": ["DELETE /api/v1/alerts/channels/1"],
    "/settings/preferences/": ["PATCH /api/v1/me"],
    "/settings/theme/": ["PATCH /api/v1/me"],
    "/settings/retention/": ["PATCH /api/v1/retention"],
    f"/targets/new/{TRACE}/source/": DRAFT,
    f"/targets/new/{TRACE}/plan/": DRAFT,
    f"/targets/new/{TRACE}/save/source/": DRAFT,
    f"/targets/new/{TRACE}/discard/": DRAFT,
    f"/targets/new/{TRACE}/review/": ["POST /api/v1/targets", "POST /api/v1/targets/check"],
    f"/targets/new/{TRACE}/bulk/": ["POST /api/v1/targets/bulk"],
    f"/targets/new/{TRACE}/token/": ["POST /api/v1/announced/token"],
    "/approvals/1/judge/": ["POST /api/v1/versions/{version}/judge"],
    "/targets/demo/settings/": ["PATCH /api/v1/targets/demo"],
    "/targets/demo/traffic/": ["PATCH /api/v1/targets/demo"],
    "/targets/demo/replica-token/": ["POST /api/v1/targets/demo/replica-token"],
    "/targets/demo/training/pause/": ["POST /api/v1/targets/demo/training/pause"],
    "/targets/demo/training/resume/": ["POST /api/v1/targets/demo/training/resume"],
    "/targets/demo/training/now/": ["POST /api/v1/targets/demo/training/now"],
    "/targets/demo/freeze/": ["POST /api/v1/targets/demo/freeze"],
    "/targets/demo/unfreeze/": ["POST /api/v1/targets/demo/unfreeze"],
    "/targets/demo/rollback/": ["POST /api/v1/targets/demo/rollback"],
    "/targets/demo/resume/": ["POST /api/v1/targets/demo/resume"],
    "/targets/demo/versions/1/approve/": ["POST /api/v1/versions/{version}/approve"],
    "/targets/demo/versions/1/reject/": ["POST /api/v1/versions/{version}/reject"],
    "/targets/demo/versions/1/promote/": ["POST /api/v1/versions/{version}/canary/promote"],
    "/targets/demo/versions/1/abort/": ["POST /api/v1/versions/{version}/canary/abort"],
    "/targets/demo/traces/access/": ["PATCH /api/v1/targets/demo/trace-access"],
    f"/targets/demo/traces/{TRACE}/delete/": [f"DELETE /api/v1/targets/demo/traces/{TRACE}"],
    "/targets/demo/playground/play/": "sends a prompt to a replica, whose own API (OpenAI's) a program calls itself",
    "/targets/demo/domains/": [
        "POST /api/v1/targets/demo/domain-rules",
        "PUT /api/v1/targets/demo/domains/config.json/pin",
        "DELETE /api/v1/targets/demo/domains/config.json/pin",
    ],
    "/targets/demo/domains/rules/1/end/": ["DELETE /api/v1/targets/demo/domain-rules/1"],
    "/targets/demo/domains/pins/1/undo/": ["POST /api/v1/targets/demo/pins/1/undo"],
    "/targets/demo/economics/": ["PATCH /api/v1/targets/demo/costs"],
    "/accounts/people/invite/": ["POST /api/v1/invites"],
    "/accounts/people/invites/1/revoke/": ["DELETE /api/v1/invites/1"],
    "/accounts/people/1/role/": ["PATCH /api/v1/users/1"],
    "/accounts/people/1/active/": ["PATCH /api/v1/users/1"],
    "/accounts/tokens/": ["POST /api/v1/tokens"],
    "/accounts/tokens/1/revoke/": ["DELETE /api/v1/tokens/1"],
    "/accounts/login/": SIGN_IN,
    "/accounts/logout/": SIGN_IN,
    "/accounts/oidc/login/": SIGN_IN,
    "/accounts/invite/<str:secret>/": "a person chooses a password of their own",
}


def posted():
    """Every address outside the API that may take a form: those of the pages, and the public ones."""
    routes = list(_routes(get_resolver().url_patterns))
    public = {f"/{route}" for route, _ in routes if route in PUBLIC and route.startswith("accounts/")}
    pages = {
        f"/{concrete(route)}"
        for route, view in routes
        if "POST" in getattr(view, "allowed_methods", ())
    }  # fmt: skip
    return pages | (public - {"/accounts/oidc/callback/"})  # the provider leads there


def test_every_form_of_a_page_has_its_operation_or_a_reason():
    """A new form must be given one here."""
    assert posted() == set(ACTIONS)
    assert {path for method, path in PAGES if method == "POST"} <= set(ACTIONS)


def test_every_operation_named_is_one():
    served = {f"{method} {path}" for method, path in API}
    for page, found in ACTIONS.items():
        assert found, page
        assert isinstance(found, str) or set(found) <= served, page


def test_whoever_may_send_the_form_may_call_the_operation():
    """Where a form takes changes of two kinds, both sides name the lesser scope and ask for the other one inside."""
    for page, found in ACTIONS.items():
        for operation in found if isinstance(found, list) else []:
            method, _, path = operation.partition(" ")
            assert API[method, path] == PAGES["POST", page], page


@pytest.mark.django_db
def test_the_figures_of_a_page_that_are_a_table_to_take_away_are_the_apis(clients, target):
    page = clients["viewer"].get("/targets/demo/economics/csv/?range=7d").content.decode()
    [line] = [row for row in csv.DictReader(io.StringIO(page)) if row["domain"] == "(all)"]
    total = clients["viewer"].get("/api/v1/targets/demo/economics?range=7d").json()["total"]
    assert line.keys() - {"covered_share", "saved_seconds", "saved_low", "saved_high", "reason"} <= total.keys()
    assert (line["num_tokens"], line["reason"]) == (str(total["num_tokens"]), total["saved"]["reason"])
    assert {"covered", "saved"} <= total.keys() and {"value", "low", "high"} <= total["saved"].keys()
