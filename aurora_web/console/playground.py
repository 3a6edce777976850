"""The playground: a prompt of a person, decoded by a replica with and without speculation, as it comes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, render
from django.utils import timezone

from aurora_web.accounts.access import allow, user_of
from aurora_web.console.templatetags.figures import ago
from aurora_web.registry.models import Target
from aurora_web.rollouts.models import Replica
from aurora_web.rollouts.playground import (
    CHAT,
    COMPLETION,
    CONTROL,
    DOMAIN,
    NO_STEPS,
    SPECULATIVE,
    Asked,
    is_embedded,
    play,
)
from aurora_web.rollouts.replica_stream import is_askable
from aurora_web.traces import search
from speculators.domain_names import CLIENTS_NAME

MOST_CHARACTERS = 8_000
MOST_TOKENS = 512
BUSY = "Another run of yours has not ended yet: one at a time."
SIDES = (
    (SPECULATIVE, "With speculation", "Text with speculation"),
    (CONTROL, "Without speculation", "Text without speculation"),
)

# People (primary keys) with a run of this process; taken and given back on its event loop only.
_running: set[int] = set()


class PlaygroundForm(forms.Form):
    """What to send. All but the prompt and the last box may be in the page's address."""

    prompt = forms.CharField(
        label="Prompt",
        strip=False,
        max_length=MOST_CHARACTERS,
        widget=forms.Textarea({"rows": 4, "aria-keyshortcuts": "Control+Enter"}),
        help_text="Ctrl+Enter sends it.",
    )
    kind = forms.ChoiceField(
        label="Sent as",
        choices=[(CHAT, "chat message"), (COMPLETION, "plain text")],
        help_text="Plain text is continued as it is.",
    )
    temperature = forms.FloatField(label="Temperature", min_value=0, max_value=2, help_text="0: the likeliest token.")
    max_tokens = forms.IntegerField(label="Most tokens", min_value=1, max_value=MOST_TOKENS)
    domain = forms.RegexField(
        rf"\A{CLIENTS_NAME.pattern}\Z",
        label="Domain",
        help_text="Counted under it; its pins hold.",
        error_messages={"invalid": "Expected 1 to 64 of a-z, 0-9, _ . -"},
        widget=forms.TextInput({"list": "playground-domains", "spellcheck": "false", "autocomplete": "off"}),
    )
    replica = forms.CharField(label="Replica", widget=forms.Select)
    may_be_learnt_from = forms.BooleanField(
        label="May be learnt from", required=False, help_text="Else nothing of it is kept."
    )

    DEFAULTS: Mapping[str, Any] = {"kind": CHAT, "temperature": 0, "max_tokens": 128, "domain": DOMAIN}

    def __init__(self, data: Any = None, *, replicas: list[Replica], initial: dict[str, Any] | None = None) -> None:
        """``replicas``: all of the target."""
        super().__init__(data, auto_id="play-%s", initial=initial)
        self.replicas = {replica.name: replica for replica in replicas}
        usable = [(r.name, f"{r.name}, v{r.version}") for r in replicas if not _problem(r)]
        self.fields["replica"].widget = forms.Select(choices=usable)

    def clean_replica(self) -> Replica:
        """The row of a replica that can be asked now."""
        name: str = self.cleaned_data["replica"]
        replica = self.replicas.get(name)
        if replica is None:
            raise forms.ValidationError(f"“{name:.100}” is no replica of this target.")
        if problem := _problem(replica):
            raise forms.ValidationError(f"{name} cannot be asked: {problem}.")
        return replica

    def asked(self, target: Target) -> Asked:
        """What to send, and where: the address is the one that the replica has reported, never one of the form."""
        given = dict(self.cleaned_data)
        replica: Replica = given.pop("replica")
        return Asked(
            url=replica.url,
            model=target.slug,
            is_embedded=is_embedded(replica),
            replica=replica.name,
            api_key=settings.SGLANG_API_KEY,
            **given,
        )


def _problem(replica: Replica) -> str:
    """Why it cannot be asked now; "" where it can."""
    silent_since = timezone.now() - timedelta(seconds=settings.REPLICA_TIMEOUT_SECONDS)
    if not replica.is_alive or replica.seen_at < silent_since:
        return f"it is down, seen {ago(replica.seen_at)}"
    if replica.state == "starting":
        return "it is starting"
    if not is_askable(replica.url):
        return f"the address that it reported, {replica.url!r:.80}, is no http address"
    return ""


def _initial(given: Mapping[str, Any], replicas: list[Replica]) -> dict[str, Any]:
    """What the address asks for; anything odd is the default."""
    usable = [replica for replica in replicas if not _problem(replica)]
    newest = max(usable, key=lambda replica: replica.seen_at, default=None)
    defaults = {**PlaygroundForm.DEFAULTS, "replica": newest.name if newest else ""}
    asked = {name: given.get(name) or default for name, default in defaults.items()}
    wrong = PlaygroundForm(asked, replicas=replicas).errors
    return {name: defaults[name] if name in wrong else value for name, value in asked.items()}


@allow("read")
def playground(request: HttpRequest, slug: str) -> HttpResponse:
    """The page; the settings of the form are in the address."""
    found = get_object_or_404(Target, slug=slug)
    replicas = list(found.replicas.all())
    problems = [(replica, _problem(replica)) for replica in replicas]
    usable = [replica for replica, problem in problems if not problem]
    context = {
        "target": found,
        "form": PlaygroundForm(replicas=replicas, initial=_initial(request.GET, replicas)),
        "usable": usable,
        "unusable": [(replica, problem) for replica, problem in problems if problem],
        "without_steps": [replica for replica in usable if not is_embedded(replica)],
        "no_steps": NO_STEPS,
        "sides": SIDES,
        "domains": [DOMAIN, *(name for name in search.domains(found) if name != DOMAIN)],
    }
    return render(request, "console/playground.html", context)


@allow("operate", "POST")
def play_prompt(request: HttpRequest, slug: str) -> HttpResponseBase:
    """Send the prompt; the answer is one JSON object a line, as rollouts.playground.play gives them."""
    found = get_object_or_404(Target, slug=slug)
    form = PlaygroundForm(request.POST, replicas=list(found.replicas.all()))
    if not form.is_valid():
        return JsonResponse({"errors": form.errors}, status=422)
    user_id, asked = user_of(request).pk, form.asked(found)
    if user_id in _running:
        return JsonResponse({"message": BUSY}, status=429, headers={"Retry-After": "1"})
    if not connection.in_atomic_block:
        connection.close()  # back to the pool: Django would keep it until the last token has come
    answer = StreamingHttpResponse(_lines(user_id, asked), content_type="application/x-ndjson")
    answer["Content-Encoding"] = "identity"  # packed, a token would wait for the next ones
    answer["Cache-Control"] = "no-store"
    answer["X-Accel-Buffering"] = "no"
    return answer


async def _lines(user_id: int, asked: Asked) -> AsyncIterator[bytes]:
    if user_id in _running:  # another request of the same person was quicker
        yield _line({"event": "error", "side": asked.sides[0], "message": BUSY})
        return
    _running.add(user_id)
    try:
        async with aclosing(play(asked)) as events:
            async for event in events:
                yield _line(event)
    finally:
        _running.discard(user_id)


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode() + b"\n"
