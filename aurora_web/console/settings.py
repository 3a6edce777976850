"""The settings that belong to no single target: policies at a glance, retention, and everybody's own preferences."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from aurora_web.accounts import preferences as kept_preferences
from aurora_web.accounts.access import allow, need, user_of
from aurora_web.accounts.models import Role, Theme
from aurora_web.accounts.scopes import MEANINGS
from aurora_web.accounts.services import AccountError
from aurora_web.moments import zone_names
from aurora_web.registry.models import Target
from aurora_web.retention import services as retention_services
from aurora_web.retention.services import LIMITS, RetentionError


class PreferencesForm(forms.Form):
    theme = forms.ChoiceField(choices=Theme.choices, widget=forms.RadioSelect, label="Theme")
    time_zone = forms.ChoiceField(
        required=False,
        label="Time zone",
        help_text="Of all times on the pages and charts. Exports and the API are UTC, ISO 8601.",
        error_messages={"invalid_choice": "“%(value)s” is no time zone that is known here: choose one of the list."},
    )

    def __init__(self, *args: Any, browser_zone: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = [(name, name.replace("_", " ")) for name in zone_names()]
        browser = ("", f"As the browser says ({browser_zone})")
        self.fields["time_zone"].choices = [browser, *names]  # type: ignore[attr-defined]  # a ChoiceField


@allow("read")
def index(request: HttpRequest) -> HttpResponse:
    """The first section: the one that everybody has."""
    return redirect("console:preferences")


@allow("read", "GET", "HEAD", "POST")
def preferences(request: HttpRequest) -> HttpResponse:
    """Theme and time zone of the one who is signed in."""
    user = user_of(request)
    given = {"theme": user.theme, "time_zone": user.time_zone}
    browser_zone = kept_preferences.browser_zone_of(request)
    form = PreferencesForm(request.POST or None, initial=given, browser_zone=browser_zone)
    if request.method == "POST" and form.is_valid():
        kept_preferences.set_preferences(user, **form.cleaned_data)
        messages.success(request, "Saved: it holds wherever you sign in.")
        return redirect("console:preferences")
    context = {"form": form, "scopes": [(scope, MEANINGS[scope]) for scope in MEANINGS if scope in user.scopes]}
    return render(request, "console/preferences.html", context, status=422 if form.errors else 200)


@allow("read", "POST")
def theme(request: HttpRequest) -> HttpResponse:
    """What the button in the page's head asks for."""
    try:
        kept_preferences.set_preferences(user_of(request), theme=request.POST.get("theme", ""))
    except AccountError as error:
        return HttpResponse(str(error), status=422, content_type="text/plain; charset=utf-8")
    return HttpResponse(status=204)


@allow("read")
def policies(request: HttpRequest) -> HttpResponse:
    """The gate's and the approvals' policy of every target, to compare them."""
    return render(request, "console/policies.html", {"targets": Target.objects.all(), "roles": Role})


class RetentionForm(forms.Form):
    is_confirmed = forms.BooleanField(required=False, label="Yes, delete what is older")
    reason = forms.CharField(required=False, max_length=500, label="Reason", help_text="It is kept in the audit log.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        fields: dict[str, forms.Field] = {}
        for name, line in retention_services.payload().items():
            limit = LIMITS[name]
            fields[name] = forms.FloatField(
                label=f"{limit.what.capitalize()} ({limit.unit})",
                required=False,
                help_text=f"Empty: {line['default']:g}, from {limit.variable}. From {limit.low:g} to {limit.high:g}.",
                widget=forms.NumberInput({"step": "any", "placeholder": f"{line['default']:g}"}),
                error_messages={"invalid": f"Expected a number from {limit.low:g} to {limit.high:g}."},
            )
        self.fields = fields | self.fields


@allow("read", "GET", "HEAD", "POST")
def retention(request: HttpRequest) -> HttpResponse:
    """How long things are kept; admins change it."""
    initial = {name: None if value is None else f"{value:g}" for name, value in retention_services.chosen().items()}
    form = RetentionForm(request.POST if request.method == "POST" else None, initial=initial)
    if request.method == "POST":
        need(request, "administer")
        if form.is_valid() and _change(form, user_of(request).username):
            messages.success(request, "Saved. What is older is deleted within minutes.")
            return redirect("console:retention")
    context = {"form": form, "lines": retention_services.payload()}
    return render(request, "console/retention.html", context, status=422 if form.errors else 200)


def _change(form: RetentionForm, actor: str) -> bool:
    asked = form.cleaned_data
    given = {name: asked[name] for name in LIMITS}
    try:
        retention_services.change(given, actor, is_confirmed=asked["is_confirmed"], reason=asked["reason"])
    except RetentionError as error:
        form.add_error(error.field, str(error))
        return False
    return True
