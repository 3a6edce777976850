"""Addresses of the console."""

from __future__ import annotations

from django.urls import include, path

from aurora_web import api_docs, health
from aurora_web.api import api

handler500 = "aurora_web.outage.server_error"
urlpatterns = [
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
    path("api/docs", api_docs.reference, name="api_docs"),
    path("api/", api.urls),
    path("accounts/", include("aurora_web.accounts.urls")),
    path("", include("aurora_web.console.urls")),
]
