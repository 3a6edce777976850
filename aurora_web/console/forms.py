"""Forms of the console; what is wrong is said beside the field."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.forms.fields import InvalidJSONInput

from aurora_web.registry.models import Target, validate_schedule
from aurora_web.registry.sendable import given_by_rules, validate_sendable
from aurora_web.registry.services import POLICY_FIELDS
from aurora_web.registry.traffic_domains import POCKET, REAL, validate_known
from aurora_web.traces.pins import MAX_LOOKAHEAD
from speculators.records import DomainPin

POLICY_LABELS = {
    "approval": ("Who lets new versions in", ""),
    "approvers": ("Who may approve", "Rolling back, aborting a canary and declining are open to every operator."),
    "may_approve_own": (
        "People may approve what they asked for",
        "Off: who registered an imported draft, had a version trained now or judged again, cannot approve it.",
    ),
    "min_gain": (
        "Least gain",
        "Relative gain of accept length over the live version that the gate asks for (0.01 = 1 %), -0.5 to 10.",
    ),
    "domain_tolerance": (
        "Tolerance per domain",
        "Relative loss of accept length that one domain may take (0.1 = 10 %).",
    ),
    "min_held_out_traces": ("Least held-out traces", "Fewer replayed traces are too few to judge by."),
    "slice_seconds": (
        "Seconds per training slice",
        "0.5 to 600. Longer slices mean fewer, larger steps between versions.",
    ),
    "control_share": (
        "Control share",
        "Share of the steps decoded without speculation, to measure the speedup (0 to 1).",
    ),
    "max_lookahead": (
        "Largest lookahead",
        "Draft tokens per verify step at most, 0 to 16. The engine may choose fewer.",
    ),
    "min_accept_length": (
        "Least accept length",
        "A swap that measures less is undone, 0 to 17. 0 = only the relative threshold.",
    ),
    "canary_share": (
        "Canary share",
        "Share of the replicas that run a new version first: at least one, never all. 0 = none, every replica at once.",
    ),
    "canary_minutes": ("Canary minutes", "How long canary and others are compared at least."),
    "canary_min_requests": ("Canary requests", "On either side at least, before a canary is judged."),
    "expected_domains": (
        "Domains expected",
        "Names that clients will send in x-aurora-domain, or that rules give, like sql, prose. They have rows before "
        "the first request.",
    ),
    "trace_days": (
        "Days that traces are kept",
        "Whole days, 1 to 3650; hidden states go with them. Left empty: as everywhere on this console.",
    ),
}


class DomainsField(forms.CharField):
    """``sql, prose`` <-> ["sql", "prose"]."""

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return [name for name in (part.strip() for part in (value or "").split(",")) if name]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool(self.to_python(data) != self.to_python(self.prepare_value(initial)))


class SettingsForm(forms.ModelForm):  # type: ignore[type-arg]
    """Only what is changed is judged: a value from before a bound must not stand in the way of the other settings."""

    def _get_validation_exclusions(self) -> set[str]:
        out: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]  # the stubs leave it out
        return out | (self.fields.keys() - set(self.changed_data))

    def clean(self) -> dict[str, Any]:
        """What is not changed stays as it is kept, which may be more exact than a page shows it."""
        cleaned = super().clean() or self.cleaned_data
        kept = {name: value for name, value in self.initial.items() if name not in self.changed_data}
        return cleaned | {name: value for name, value in kept.items() if name in cleaned}


class PolicyForm(SettingsForm):
    expected_domains = DomainsField(
        label=POLICY_LABELS["expected_domains"][0], required=False, help_text=POLICY_LABELS["expected_domains"][1]
    )
    reason = forms.CharField(required=False, max_length=500, label="Reason", help_text="It is kept in the audit log.")

    class Meta:
        model = Target
        fields = ("name", *POLICY_FIELDS, "is_active")
        labels = {name: label for name, (label, _) in POLICY_LABELS.items()} | {"is_active": "Active"}
        help_texts = {name: text for name, (_, text) in POLICY_LABELS.items()} | {
            "is_active": "Inactive: no engine, no training. Versions and figures stay."
        }

    def clean_expected_domains(self) -> list[str]:
        names: list[str] = self.cleaned_data["expected_domains"]
        if "expected_domains" in self.changed_data:  # names from before this was asked may stay
            validate_sendable(names, given_by_rules(self.instance) | set(self.initial["expected_domains"]))
        return names


class MixField(forms.CharField):
    """``sql=2, chat=1`` <-> {"sql": 2, "chat": 1}."""

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(f"{k}={v:g}" for k, v in value.items()) if isinstance(value, dict) else value

    def to_python(self, value: Any) -> Any:
        mix = {}
        for part in filter(None, (p.strip() for p in (value or "").split(","))):
            name, equals, weight = part.partition("=")
            try:
                mix[name.strip()] = float(weight) if equals else 1.0
            except ValueError:
                raise forms.ValidationError(f"{part!r}: expected domain=weight, like sql=2") from None
        return mix

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != self.to_python(self.prepare_value(initial)))
        except forms.ValidationError:
            return True


class ScheduleField(forms.JSONField):
    """JSON, shown again as it was typed where it is none that a page or the database can hold."""

    def to_python(self, value: Any) -> Any:
        try:
            found = super().to_python(value)
            json.dumps(found, ensure_ascii=False).encode()
        except (RecursionError, UnicodeEncodeError):  # too many brackets; half of a surrogate pair
            raise forms.ValidationError(self.error_messages["invalid"], code="invalid") from None
        return found

    def bound_data(self, data: Any, initial: Any) -> Any:
        try:
            self.to_python(data)
        except forms.ValidationError:
            return InvalidJSONInput(data)
        return super().bound_data(data, initial)


class TrafficForm(SettingsForm):
    traffic_mix = MixField(
        label="Domains",
        required=False,
        help_text=f"Weights, like chat=2, sql_schema=1. Empty: real prompts of all kinds ({', '.join(REAL)}). "
        f"What the pocket target knows: {', '.join(POCKET)}.",
    )

    class Meta:
        model = Target
        fields = (
            "traffic_enabled",
            "traffic_concurrency",
            "traffic_requests_per_second",
            "traffic_mix",
            "traffic_max_tokens",
            "traffic_sampled_share",
            "traffic_schedule",
        )
        labels = {
            "traffic_enabled": "Send demo traffic",
            "traffic_concurrency": "Requests at once",
            "traffic_requests_per_second": "Requests per second",
            "traffic_max_tokens": "Tokens per answer",
            "traffic_sampled_share": "Sampled share",
            "traffic_schedule": "Schedule of shifts",
        }
        help_texts = {
            "traffic_requests_per_second": "0 = as many as the concurrency allows.",
            "traffic_sampled_share": "Share of requests at temperature 0.7; the others are greedy.",
            "traffic_schedule": 'Phases, repeated: [{"seconds": 120, "mix": {"chat": 1}}, {"seconds": 120, '
            '"mix": {"sql_schema": 1}}]. [] = the domains above all the time.',
        }
        field_classes = {"traffic_schedule": ScheduleField}
        widgets = {"traffic_schedule": forms.Textarea({"rows": 3, "spellcheck": "false"})}

    def clean_traffic_mix(self) -> Any:
        mix = self.cleaned_data["traffic_mix"]
        if "traffic_mix" in self.changed_data:
            validate_known(mix)
        return mix

    def clean_traffic_schedule(self) -> Any:
        schedule = self.cleaned_data["traffic_schedule"] or []
        schedule = [schedule] if isinstance(schedule, dict) else schedule
        if "traffic_schedule" in self.changed_data:
            validate_schedule(schedule)
            for phase in schedule:
                validate_known(phase["mix"])
        return schedule


class DecisionForm(forms.Form):
    reason = forms.CharField(required=False, max_length=500)
    expected_status = forms.CharField(required=False, max_length=16)


class PinForm(forms.Form):
    """What is fixed for one domain; ``seen_domain`` and ``revision`` say which pin the page showed."""

    OFF = "off"
    domain = forms.CharField(
        label="Domain",
        max_length=100,
        widget=forms.TextInput({"list": "pin-domains", "spellcheck": "false", "autocomplete": "off"}),
    )
    lookahead = forms.ChoiceField(label="Lookahead", required=False)
    no_training = forms.BooleanField(label="No training", required=False)
    reason = forms.CharField(label="Reason", required=False, max_length=500)
    seen_domain = forms.CharField(required=False, max_length=100, widget=forms.HiddenInput)
    revision = forms.IntegerField(required=False, widget=forms.HiddenInput)

    def __init__(self, data: Any = None, *, most: int, initial: dict[str, Any] | None = None) -> None:
        """``most``: the target's largest lookahead."""
        super().__init__(data, auto_id="pin-%s", initial=initial)
        numbers = [(str(n), f"fixed at {n}") for n in range(1, min(most, MAX_LOOKAHEAD) + 1)]
        field = self.fields["lookahead"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", "the engine chooses"), (self.OFF, "speculation off"), *numbers]
        field.error_messages["invalid_choice"] = f"%(value)s cannot be pinned: expected off, or 1 to {len(numbers)}."

    @classmethod
    def initial_of(cls, pin: DomainPin, revision: int) -> dict[str, Any]:
        """A pin as the form's values."""
        lookahead = cls.OFF if pin.speculation_off else pin.lookahead or ""
        seen = {"seen_domain": pin.domain, "revision": revision}
        return {"domain": pin.domain, "lookahead": lookahead, "no_training": pin.no_training, **seen}

    def pin(self) -> DomainPin:
        """What was asked for."""
        given = self.cleaned_data
        chosen = given["lookahead"]
        lookahead = int(chosen) if chosen and chosen != self.OFF else None
        return DomainPin(given["domain"], lookahead, chosen == self.OFF, given["no_training"])

    @property
    def expected(self) -> int | None:
        """The revision that the person saw of this domain; None = the form was about another one."""
        given = self.cleaned_data
        return given["revision"] if given["seen_domain"] == given["domain"] else None
