"""Who may open a page or post a form: one decorator for all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec
from urllib.parse import urlsplit

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_http_methods

from aurora_web.accounts import scopes
from aurora_web.accounts.models import User

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]


def allow(scope: str, *methods: str) -> Callable[[View[P]], View[P]]:
    """Signed-in people with ``scope`` (accounts/scopes.py) only; methods default to GET and HEAD.

    Nobody signed in is sent to the sign-in page and back, a part of a page gets 401; too small a role is 403.
    """

    scopes.known(scope)

    def decorate(view: View[P]) -> View[P]:
        @require_http_methods(list(methods) or ["GET", "HEAD"])
        @functools.wraps(view)
        def checked(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            if not request.user.is_authenticated:
                return _sign_in(request)
            need(request, scope)
            _drop_nul(request)
            return view(request, *args, **kwargs)

        vars(checked)["allowed_methods"] = tuple(methods) or ("GET", "HEAD")  # the permission matrix asks for them
        return checked

    return decorate


def _drop_nul(request: HttpRequest) -> None:
    """Out of a form's fields: nobody can type it, and the database cannot keep it."""
    if any("\0" in text for _, texts in request.POST.lists() for text in texts):
        clean = request.POST.copy()
        for name, texts in request.POST.lists():
            clean.setlist(name, [text.replace("\0", "") for text in texts])
        request.POST = clean  # type: ignore[assignment]  # django-stubs say it never changes


def need(request: HttpRequest, scope: str) -> None:
    """Behind ``allow``: this part of the page needs another scope. Raises ScopeMissing, a 403."""
    user = user_of(request)
    words = f"your role is {user.role}, and this is for {scopes.people_with(scope)}"
    scopes.check(scope, user.scopes, user.username, words)


def _sign_in(request: HttpRequest) -> HttpResponse:
    """A page leads to the sign-in page; a part of one must not be replaced by it."""
    if getattr(request, "htmx", False):
        return HttpResponse("Your session has ended.", status=401)
    if request.method in {"GET", "HEAD"}:
        return redirect_to_login(request.get_full_path())
    page = urlsplit(request.headers.get("referer", ""))  # a form cannot be sent again: back to where it was
    return redirect_to_login(page.path if page.netloc == request.get_host() and page.path else "/")


def user_of(request: HttpRequest) -> User:
    """The signed-in person; only behind ``allow``."""
    assert isinstance(request.user, User)
    return request.user
