"""The way to an OpenID Connect provider and back; there is none without AURORA_OIDC_ISSUER."""

from __future__ import annotations

import logging
from typing import Any

from django.conf import settings
from django.contrib.auth import login
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_GET

from aurora_web.accounts import oidc
from aurora_web.environment import OpenIdConnect

log = logging.getLogger(__name__)
NEXT = "oidc_next"
TIMEOUT_SECONDS = 10


def _provider() -> OpenIdConnect:
    found: OpenIdConnect | None = settings.OIDC
    if found is None:
        raise Http404("AURORA_OIDC_ISSUER is not set")
    return found


def _client(provider: OpenIdConnect) -> Any:
    """Authlib's client: discovery, state, nonce and PKCE are its own. It is made anew, so keys may change any time."""
    from authlib.integrations.django_client import OAuth

    return OAuth().register(
        "oidc",
        client_id=provider.client_id,
        client_secret=provider.client_secret,
        server_metadata_url=f"{provider.issuer.rstrip('/')}/.well-known/openid-configuration",
        client_kwargs={
            "scope": provider.scope,
            "code_challenge_method": "S256",
            "default_timeout": TIMEOUT_SECONDS,
        },
    )


def _errors() -> tuple[type[Exception], ...]:
    """What the library and the network raise: a wrong answer of the provider, or none."""
    from authlib.common.errors import AuthlibBaseError
    from joserfc.errors import JoseError
    from requests import RequestException

    return AuthlibBaseError, JoseError, RequestException, ValueError, KeyError, RuntimeError


@require_GET
def begin(request: HttpRequest) -> HttpResponse:
    """Send the browser to the provider."""
    provider = _provider()
    wanted = request.GET.get("next", "")
    is_here = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure())
    request.session[NEXT] = wanted if is_here else settings.LOGIN_REDIRECT_URL
    address = settings.CONSOLE_URL + reverse("accounts:oidc_callback")
    try:
        answer: HttpResponse = _client(provider).authorize_redirect(request, address)
    except _errors() as error:
        return _failed(request, provider, error)
    return answer


@require_GET
def callback(request: HttpRequest) -> HttpResponse:
    """The provider sent the browser back: check what it says, and let the person in."""
    provider = _provider()
    try:
        claims = _claims(request, provider)
    except _errors() as error:
        return _failed(request, provider, error)
    try:
        user = oidc.sign_in(provider, claims)
    except oidc.SignInRefused as error:
        return render(request, "accounts/oidc_failed.html", {"oidc": provider, "refused": str(error)}, status=403)
    wanted = request.session.pop(NEXT, settings.LOGIN_REDIRECT_URL)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return redirect(wanted)


def _claims(request: HttpRequest, provider: OpenIdConnect) -> dict[str, Any]:
    """What the ID token says, its signature, issuer, audience, nonce and times checked."""
    required = {"iss": {"essential": True, "value": provider.issuer}, "sub": {"essential": True}}
    token = _client(provider).authorize_access_token(request, claims_options=required)
    if "userinfo" not in token:
        raise ValueError("the provider sent no ID token")
    return dict(token["userinfo"])


def _failed(request: HttpRequest, provider: OpenIdConnect, error: Exception) -> HttpResponse:
    log.warning("sign-in through %s failed: %s: %s", provider.issuer, type(error).__name__, error)
    return render(request, "accounts/oidc_failed.html", {"oidc": provider}, status=502)
