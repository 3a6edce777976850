"""The pages about alerts: what fires first, history, rules per target, silences, channels with their deliveries."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from aurora_web.accounts.access import allow, need, user_of
from aurora_web.console.back import back_to
from aurora_web.moments import said
from aurora_web.registry.models import Target
from aurora_web.rollouts import board, watching
from aurora_web.rollouts.models import AlertState, Channel, ChannelKind, Delivery, Rule, Silence
from aurora_web.rollouts.watching import WatchError

HOURS = [("1", "1 hour"), ("4", "4 hours"), ("24", "1 day"), ("168", "1 week")]
NEW_SECRET = "new_channel_secret"
NUM_DELIVERIES = 50


class SilenceForm(forms.Form):
    target = forms.CharField(required=False)
    rule = forms.ChoiceField(choices=[("", "every rule"), *Rule.choices], required=False, label="Rule")
    replica = forms.CharField(required=False, max_length=200, label="Replica or domain", help_text="Empty: all.")
    hours = forms.TypedChoiceField(choices=HOURS, coerce=float, initial="4", label="For")
    reason = forms.CharField(max_length=500, label="Reason", help_text="Others will read it.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        slugs = [(slug, slug) for slug in Target.objects.values_list("slug", flat=True)]
        self.fields["target"] = forms.ChoiceField(
            choices=[("", "every target"), *slugs], required=False, label="Target"
        )


class ChannelForm(forms.Form):
    name = forms.CharField(max_length=100, label="Name")
    kind = forms.ChoiceField(choices=ChannelKind.choices, label="Kind")
    address = forms.CharField(
        max_length=500, label="Address", help_text="A URL, or e-mail addresses with commas between them."
    )


@allow("read")
def alerts(request: HttpRequest) -> HttpResponse:
    """What fires comes first; then what may, what cannot be said, and what was."""
    chosen = {name: request.GET.get(name, "").strip() for name in ("target", "rule", "state")}
    cursor = request.GET.get("cursor", "")
    past = board.history(chosen["target"], chosen["rule"], chosen["state"], cursor)
    context = {
        **board.open_board(chosen["target"]),
        "unsure": board.unsure(timezone.now()),
        "silences": board.active_silences(),
        "history": past[: board.PAGE],
        "next": past[board.PAGE - 1].pk if len(past) > board.PAGE else None,
        "is_first": not cursor,
        "chosen": chosen,
        "is_filtered": any(chosen.values()),
        "query": urlencode({name: value for name, value in chosen.items() if value}),
        "targets": Target.objects.values_list("slug", flat=True),
        "rules": Rule.choices,
        "states": AlertState.choices,
    }
    return render(request, "console/alerts.html", context)


@allow("read", "GET", "HEAD", "POST")
def rules(request: HttpRequest) -> HttpResponse:
    """Every rule of one target, or of the console: its state, and its threshold (admins change it)."""
    problem = ""
    slug = request.GET.get("target", "")
    target = get_object_or_404(Target, slug=slug) if slug else None
    if request.method == "POST":
        need(request, "administer")
        if not (problem := _change_rule(request, target)):
            answer = redirect("console:alert_rules")
            answer["Location"] += f"?target={target.slug}" if target else ""
            return answer
    rows, asked_at = board.ruled(target)
    context = {
        "target": target,
        "rows": rows,
        "asked_at": asked_at,
        "is_stale": asked_at is not None and timezone.now() - asked_at > board.STALE,
        "targets": Target.objects.values_list("slug", flat=True),
        "problem": problem,
        "given": request.POST,
    }
    return render(request, "console/alert_rules.html", context, status=422 if problem else 200)


def _change_rule(request: HttpRequest, target: Target | None) -> str:
    """What is wrong with what was sent; "" = it is saved."""
    typed = request.POST.get("threshold", "").strip()
    try:
        threshold = float(typed) if typed else None
        is_enabled = request.POST.get("is_enabled") == "on"
        actor = user_of(request).username
        row = watching.set_rule(target, request.POST.get("rule", ""), actor, threshold=threshold, is_enabled=is_enabled)
    except WatchError as error:
        return f"Nothing was changed: {error}."
    except ValueError:
        return f"Nothing was changed: the threshold {typed!r:.40} is no number."
    messages.success(request, f"{Rule(row.rule).label}: saved. It counts from the next look, within ten seconds.")
    return ""


@allow("operate", "GET", "HEAD", "POST")
def new_silence(request: HttpRequest) -> HttpResponse:
    """GET asks for how long and why, in a dialog or as a page; POST silences."""
    given = {name: request.GET.get(name, "") for name in ("target", "rule", "replica")}
    form = SilenceForm(request.POST or None, initial=given)
    if request.method == "POST" and form.is_valid():
        asked = form.cleaned_data
        target = Target.objects.filter(slug=asked["target"]).first() if asked["target"] else None
        try:
            row = watching.silence(
                user_of(request).username, asked["hours"], asked["reason"], target, asked["rule"], asked["replica"]
            )
        except WatchError as error:
            form.add_error("reason", str(error))
        else:
            messages.success(request, f"Silenced until {said(row.expires_at, '%Y-%m-%d %H:%M')}.")
            return back_to(request, "console:alerts")
    is_part = bool(getattr(request, "htmx", False))
    template = "console/_silence_form.html" if is_part else "console/silence.html"
    return render(request, template, {"form": form}, status=422 if form.errors else 200)


@allow("operate", "POST")
def end_silence(request: HttpRequest, pk: int) -> HttpResponse:
    row = get_object_or_404(Silence.objects.select_related("target"), pk=pk)
    if watching.end_silence(row, user_of(request).username):
        messages.success(request, "The silence is ended.")
    else:
        messages.error(request, "Nothing was changed: the silence had ended already.")
    return back_to(request, "console:alerts")


@allow("administer", "GET", "HEAD", "POST")
def channels(request: HttpRequest) -> HttpResponse:
    """Webhooks and e-mail: make one, test it, see what was delivered."""
    form = ChannelForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        asked = form.cleaned_data
        try:
            row, secret = watching.add_channel(
                asked["name"], asked["kind"], asked["address"], user_of(request).username
            )
        except WatchError as error:
            form.add_error("address" if "address" in str(error) else "name", str(error))
        else:
            if secret:
                request.session[NEW_SECRET] = {"label": f"Secret of {row.name}, shown once", "text": secret}
            messages.success(request, f"{row.name} is set up. Send a test to see that it arrives.")
            return redirect("console:alert_channels")
    log = Delivery.objects.select_related("channel")
    context = {
        "channels": Channel.objects.all(),
        "is_email_set_up": bool(settings.EMAIL_URL),
        "deliveries": log.defer("payload")[:NUM_DELIVERIES],
        "form": form,
        "new_secret": request.session.pop(NEW_SECRET, None),  # shown once
    }
    return render(request, "console/alert_channels.html", context, status=422 if form.errors else 200)


@allow("administer", "POST")
def test_channel(request: HttpRequest, pk: int) -> HttpResponse:
    row = get_object_or_404(Channel, pk=pk)
    watching.send_test(row, user_of(request).username)
    messages.success(request, f"A test is on its way to {row.name}; reload to see how it went.")
    return redirect("console:alert_channels")


@allow("administer", "POST")
def remove_channel(request: HttpRequest, pk: int) -> HttpResponse:
    row = get_object_or_404(Channel, pk=pk)
    watching.remove_channel(row, user_of(request).username)
    messages.success(request, f"{row.name} is removed.")
    return redirect("console:alert_channels")
