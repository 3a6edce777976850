"""Signing in, accepting an invite, the page on which an admin looks after people; the one for tokens."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.views import LoginView
from django.core.exceptions import ValidationError
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods

from aurora_web.accounts import services
from aurora_web.accounts.access import allow, user_of
from aurora_web.accounts.forms import InviteForm, NewInviteForm, NewTokenForm, RoleForm
from aurora_web.accounts.models import ApiToken, Invite, Role, User
from aurora_web.accounts.services import AccountError
from aurora_web.moments import said

MAX_TOKENS = 200  # on the page; the API lists all


class SignIn(LoginView):
    """With a password of this console, or through the provider where there is one."""

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**kwargs) | {"oidc": settings.OIDC}


@require_http_methods(["GET", "HEAD", "POST"])
def invite(request: HttpRequest, secret: str) -> HttpResponse:
    """A one-time link: choose a name and a password, and be signed in."""
    found = services.find_invite(secret)
    if found is None:
        return render(request, "accounts/invite_gone.html", status=410)
    form = InviteForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            user = services.accept_invite(secret, form.cleaned_data["username"], form.cleaned_data["password"])
        except AccountError as error:
            form.add_error("username", str(error))
        except ValidationError as error:
            _add(form, error)
        else:
            login(request, user, backend="django.contrib.auth.backends.ModelBackend")
            return redirect(settings.LOGIN_REDIRECT_URL)
    return render(request, "accounts/invite.html", {"form": form, "invite": found}, status=422 if form.errors else 200)


def _add(form: InviteForm, error: ValidationError) -> None:
    if hasattr(error, "error_dict"):
        for field, problems in error.message_dict.items():
            form.add_error(field if field in form.fields else None, problems)
    else:
        form.add_error("password", error.messages)


@allow("administer")
def people(request: HttpRequest) -> HttpResponse:
    """Users and their roles, and invites."""
    context = {
        "users": User.objects.order_by("username").prefetch_related("identities"),
        "roles": Role,
        "invite_form": NewInviteForm(),
        "invites": services.open_invites(),
        "new_secret": request.session.pop("new_secret", None),  # shown once
    }
    return render(request, "accounts/people.html", context)


@allow("administer", "POST")
def create_invite(request: HttpRequest) -> HttpResponse:
    form = NewInviteForm(request.POST)
    if form.is_valid():
        made, secret = services.create_invite(form.cleaned_data["role"], user_of(request).username)
        link = f"{settings.CONSOLE_URL}/accounts/invite/{secret}/"
        request.session["new_secret"] = {
            "label": f"Invite link ({made.role}), works once, until {said(made.expires_at, '%Y-%m-%d %H:%M')}",
            "text": link,
        }
    return redirect("accounts:people")


@allow("administer", "POST")
def revoke_invite(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Invite, pk=pk)
    if services.revoke_invite(found, user_of(request).username):
        messages.success(request, f"The invite ({found.role}) is revoked: its link leads nowhere from now on.")
    else:
        messages.error(request, f"Nothing was changed: the invite ({found.role}) was used, or had ended, before.")
    return redirect("accounts:people")


@allow("administer", "POST")
def change_role(request: HttpRequest, pk: int) -> HttpResponse:
    form = RoleForm(request.POST)
    user = get_object_or_404(User, pk=pk)
    if form.is_valid():
        try:
            services.set_role(user, form.cleaned_data["role"], user_of(request).username)
            messages.success(request, f"{user.username} is {form.cleaned_data['role']} now.")
        except AccountError as error:
            messages.error(request, str(error))
    else:
        messages.error(request, f"{request.POST.get('role', '')!r:.40} is no role.")
    return redirect("accounts:people")


@allow("administer", "POST")
def change_active(request: HttpRequest, pk: int) -> HttpResponse:
    """Switch an account off, or on again."""
    user = get_object_or_404(User, pk=pk)
    is_active = request.POST.get("is_active") == "1"
    try:
        services.set_active(user, is_active, user_of(request).username)
        messages.success(request, f"{user.username} is switched {'on' if is_active else 'off'}.")
    except AccountError as error:
        messages.error(request, str(error))
    return redirect("accounts:people")


@allow("administer", "GET", "HEAD", "POST")
def tokens(request: HttpRequest) -> HttpResponse:
    """API tokens: make one (its secret is shown once), see what each may do and when it was used, revoke."""
    user = user_of(request)
    form = NewTokenForm(request.POST if request.method == "POST" else None, maker_scopes=user.scopes)
    if request.method == "POST" and form.is_valid():
        token, secret = services.create_token(
            form.cleaned_data["name"],
            "",
            user.username,
            form.expires_at(),
            scopes=form.cleaned_data["scopes"],
            owner=user,
            maker_scopes=user.scopes,
        )
        request.session["new_secret"] = {"label": f"Token {token}, shown once", "text": secret}
        return redirect("accounts:tokens")
    rows = ApiToken.objects.select_related("owner").order_by(F("revoked_at").desc(nulls_first=True), "-created_at")
    context = {
        "tokens": rows[:MAX_TOKENS],
        "num_tokens": rows.count(),
        "form": form,
        "new_secret": request.session.pop("new_secret", None),  # shown once
    }
    return render(request, "accounts/tokens.html", context, status=422 if form.errors else 200)


@allow("administer", "POST")
def revoke_token(request: HttpRequest, pk: int) -> HttpResponse:
    token = get_object_or_404(ApiToken, pk=pk)
    services.revoke_token(token, user_of(request).username)
    messages.success(request, f"The token {token.name} is revoked: calls with it are answered 401 from now on.")
    return redirect("accounts:tokens")
