"""The REST API under /api/v1; api_docs.py is its documentation for people."""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from ninja.errors import HttpError, ValidationError
from psycopg_pool import PoolTimeout

from aurora_web import outage, system_api
from aurora_web.accounts import api as accounts
from aurora_web.accounts import me_api
from aurora_web.accounts.audit import WrongFilter
from aurora_web.accounts.scopes import ScopeMissing
from aurora_web.accounts.services import AccountError
from aurora_web.console import api as console
from aurora_web.console import versions_api
from aurora_web.metrics import api as metrics
from aurora_web.metrics import domains_api
from aurora_web.moments import WrongMoment
from aurora_web.openapi import AuroraAPI
from aurora_web.problems import Problem, problem_response
from aurora_web.registry import api as registry
from aurora_web.registry.services import IncompatibleTarget, StaleVersion, UnknownTarget
from aurora_web.retention import api as retention
from aurora_web.rollouts import alerts_api, economics_api, pins_api
from aurora_web.rollouts import api as rollouts
from aurora_web.rollouts.approvals import ApprovalRefused
from aurora_web.rollouts.comparison import ComparisonError
from aurora_web.rollouts.intent import RolloutError
from aurora_web.rollouts.watching import WatchError
from aurora_web.traces import api as traces
from aurora_web.traces import people_api, rules_api
from aurora_web.traces.pins import PinChanged
from aurora_web.training import api as training
from aurora_web.training.control import TrainingRefused
from aurora_web.wire import JsonParser
from speculators.records import RecordError

log = logging.getLogger(__name__)
api = AuroraAPI(title="Aurora", version="1", docs_url=None, openapi_url="/openapi.json", urls_namespace="api",
                parser=JsonParser())  # fmt: skip
for prefix, router in (
    ("/v1/targets", registry.router),
    ("/v1/targets", metrics.router),
    ("/v1/targets", rollouts.target_router),
    ("/v1/targets", people_api.router),
    ("/v1/targets", domains_api.router),
    ("/v1/targets", rules_api.router),
    ("/v1/targets", economics_api.router),
    ("/v1/targets", pins_api.router),
    ("/v1/targets", training.router),
    ("/v1/targets", console.router),
    ("/v1/targets", versions_api.router),
    ("/v1/versions", rollouts.version_router),
    ("/v1", rollouts.read_router),
    ("/v1", registry.announced_router),
    ("/v1/ingest", registry.ingest_router),
    ("/v1/ingest", traces.router),
    ("/v1/ingest", metrics.ingest_router),
    ("/v1/ingest", rollouts.ingest_router),
    ("/v1", rollouts.machine_router),
    ("/v1", system_api.router),
    ("/v1", retention.router),
    ("/v1/alerts", alerts_api.router),
    ("/v1/audit", accounts.audit_router),
    ("/v1/tokens", accounts.token_router),
    ("/v1", accounts.people_router),
    ("/v1", me_api.router),
):
    api.add_router(prefix, router)


@api.exception_handler(Problem)
def _problem(request: HttpRequest, error: Problem) -> HttpResponse:
    return problem_response(error.status, error.detail, **error.extra)


@api.exception_handler(ScopeMissing)
def _scope_missing(request: HttpRequest, error: ScopeMissing) -> HttpResponse:
    return problem_response(403, str(error), missing_scope=error.scope)


@api.exception_handler(ValidationError)
def _validation(request: HttpRequest, error: ValidationError) -> HttpResponse:
    fields = [{"field": ".".join(map(str, e["loc"])), "problem": _words(e)} for e in error.errors]
    detail = "; ".join(f"{f['field']}: {f['problem']}" for f in fields)
    return problem_response(422, detail, errors=fields)


def _words(error: Any) -> str:
    return "no such field here" if error["type"] == "extra_forbidden" else str(error["msg"])


@api.exception_handler(IncompatibleTarget)
def _incompatible(request: HttpRequest, error: IncompatibleTarget) -> HttpResponse:
    return problem_response(422, str(error), errors=error.problems)


@api.exception_handler(HttpError)
def _http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    return problem_response(error.status_code, str(error))


@api.exception_handler(Http404)
def _not_found(request: HttpRequest, error: Http404) -> HttpResponse:
    return problem_response(404, "there is nothing here")


def _with_status(status: int) -> Any:
    def handler(request: HttpRequest, error: Exception) -> HttpResponse:
        return problem_response(status, str(error))

    return handler


def _unavailable(request: HttpRequest, error: Any) -> HttpResponse:
    outage.note()
    log.warning("%s %s: the database is not available: %s", request.method, request.path, error)
    return problem_response(503, "the database is not available; try again")


REFUSALS: tuple[tuple[type[Exception], int], ...] = (
    (RecordError, 422),
    (AccountError, 422),
    (WrongFilter, 422),
    (WrongMoment, 422),
    (WatchError, 422),
    (UnknownTarget, 404),
    (StaleVersion, 409),
    (RolloutError, 409),
    (ApprovalRefused, 403),
    (ComparisonError, 422),
    (TrainingRefused, 409),
    (PinChanged, 409),
    (RequestDataTooBig, 413),
)
for error_class, status in REFUSALS:
    api.add_exception_handler(error_class, _with_status(status))
api.add_exception_handler(OperationalError, _unavailable)
api.add_exception_handler(PoolTimeout, _unavailable)
