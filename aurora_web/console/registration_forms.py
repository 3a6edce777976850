"""Forms of the registration wizard: where the model comes from, and the plan."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from django import forms
from django.db.models import F, Q, Window
from django.db.models.functions import RowNumber
from django.http import HttpRequest

from aurora_web.console.forms import POLICY_LABELS, DomainsField
from aurora_web.registry.bulk import MAX_FILE_BYTES, MODES
from aurora_web.registry.checks import REPORTED
from aurora_web.registry.models import AnnouncedReplica, Source, SpeculatorVersion, Status, Target
from aurora_web.registry.sendable import validate_sendable
from aurora_web.registry.services import POLICY_FIELDS

MAX_CONFIG_BYTES = 200_000
COPIES_PER_TARGET = 5  # that are proposed
PLAIN = {"spellcheck": "false", "autocomplete": "off"}
STARTS = [
    ("random", "Random weights: served at once, it learns from the first request"),
    ("import", "An EAGLE-3 checkpoint of yours"),
    ("copy", "A copy of another target's version"),
]
BASIC_POLICY = ("approval", "approvers", "may_approve_own", "expected_domains", "trace_days")


class SourceForm(forms.Form):
    source = forms.ChoiceField(
        label="Source",
        required=False,  # a script that says nothing means the embedded engine
        choices=[*Source.choices, (REPORTED, "A server that has reported itself")],
        widget=forms.RadioSelect,
        initial=Source.EMBEDDED,
    )
    path = forms.CharField(
        label="Checkpoint directory, or a package's name",
        required=False,
        max_length=1000,
        help_text="Absolute path, the same for engine and trainer: config.json and *.safetensors of a Llama, Qwen2 or "
        "Qwen3 model; the embedded engine needs tokenizer.json too.",
        widget=forms.TextInput({"placeholder": "/models/qwen3-0.6b", "list": "packages", **PLAIN}),
    )
    model_id = forms.CharField(
        label="Or its model id",
        required=False,
        max_length=200,
        help_text="What SGLang is told to load. The console downloads nothing: it looks in AURORA_MODELS_DIR, else it "
        "needs the model's config.json.",
        widget=forms.TextInput({"placeholder": "Qwen/Qwen3-8B", **PLAIN}),
    )
    config = forms.CharField(
        label="config.json of the model id",
        required=False,
        max_length=MAX_CONFIG_BYTES,
        help_text="Only where the console has no such directory: paste the file, or choose it below.",
        widget=forms.Textarea({"rows": 4, "spellcheck": "false"}),
    )
    config_file = forms.FileField(label="config.json as a file", required=False)
    replica = forms.CharField(required=False, max_length=265)  # slug/name; drawn by a template of its own

    def clean_source(self) -> str:
        return self.cleaned_data["source"] or Source.EMBEDDED

    def clean_config(self) -> dict[str, Any] | None:
        """The config.json; what was chosen as a file has been put here by ``typed``."""
        text = self.cleaned_data["config"].strip()
        if not text:
            return None
        try:
            config = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise forms.ValidationError(f"This is not valid JSON: {error}.") from error
        if not isinstance(config, dict):
            raise forms.ValidationError("This is no config.json: expected an object in braces.")
        return config

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("source") == REPORTED and not cleaned.get("replica"):
            self.add_error("replica", "No server is chosen: choose one that has reported itself, or another source.")
        return cleaned

    def origin(self) -> dict[str, Any]:
        """Fields of registry.checks.Origin; what belongs to another source is left out."""
        given = self.cleaned_data
        if given["source"] == REPORTED:
            return {"source": Source.SGLANG.value, "replica": given["replica"]}
        found = {"source": given["source"], "path": given["path"].strip()}
        if given["source"] == Source.SGLANG:
            found |= {"model_id": given["model_id"].strip(), "config": given["config"]}
        return found


class PlanForm(forms.ModelForm):  # type: ignore[type-arg]
    """First draft, policy, domains, retention and name. ``announced``: the server that the model comes from."""

    slug = forms.CharField(
        label="Slug",
        required=False,
        max_length=64,
        help_text="The model's name in the API. Left empty: the directory's or the model's name.",
        widget=forms.TextInput(PLAIN),
    )
    display_name = forms.CharField(label="Display name", required=False, max_length=200)
    start = forms.ChoiceField(
        label="Version 1", required=False, choices=STARTS, widget=forms.RadioSelect, initial="random"
    )
    draft_path = forms.CharField(
        label="Directory of the EAGLE-3 checkpoint",
        required=False,
        max_length=1000,
        help_text="config.json and model.safetensors of a draft that was made for this model.",
        widget=forms.TextInput(PLAIN),
    )
    draft_version = forms.CharField(
        label="Version to copy",
        required=False,
        max_length=100,
        help_text="Target and number, of a target of the same shape and vocabulary; the copy learns on by itself. "
        f"Proposed are {COPIES_PER_TARGET} of each target, what is live first; older ones can be typed.",
        widget=forms.TextInput({"placeholder": "demo:3", "list": "copies", **PLAIN}),
    )
    expected_domains = DomainsField(
        label=POLICY_LABELS["expected_domains"][0], required=False, help_text=POLICY_LABELS["expected_domains"][1]
    )
    is_traffic_enabled = forms.BooleanField(
        label="Send demo traffic",
        required=False,
        help_text="A generator on this machine sends prompts of several domains. Leave it off where clients send.",
    )

    class Meta:
        model = Target
        fields = POLICY_FIELDS
        labels = {name: label for name, (label, _) in POLICY_LABELS.items()}
        help_texts = {name: text for name, (_, text) in POLICY_LABELS.items()}
        widgets = {"approval": forms.RadioSelect}

    def __init__(self, data: Any = None, *, announced: AnnouncedReplica | None = None) -> None:
        initial = {}
        if announced is not None:
            initial = {"slug": announced.slug}
            if announced.draft_path and os.path.isdir(announced.draft_path):
                initial |= {"start": "import", "draft_path": announced.draft_path}
        super().__init__(data, initial=initial)

    def copies(self) -> list[tuple[str, str]]:
        """(name, words) of versions whose files are kept: what is live first, then the newest of each target."""
        live, newest = F("is_live").desc(), F("number").desc()
        kept = SpeculatorVersion.objects.filter(pruned_at=None).exclude(status=Status.CANDIDATE)
        kept = kept.select_related("target").only("number", "status", "report", "target__slug")
        kept = kept.annotate(is_live=Q(status=Status.LIVE))
        kept = kept.annotate(place=Window(RowNumber(), partition_by="target", order_by=[live, newest]))
        rows = kept.filter(place__lte=COPIES_PER_TARGET).order_by(live, "target__slug", newest)
        return [(f"{v.target.slug}:{v.number}", f"{v.target.slug} v{v.number}, {_words(v)}") for v in rows]

    def basics(self) -> list[Any]:
        """The policy that everybody should look at."""
        return [self[name] for name in BASIC_POLICY]

    def thresholds(self) -> list[Any]:
        """The rest of the policy, whose defaults will do."""
        return [self[name] for name in POLICY_FIELDS if name not in BASIC_POLICY]

    def has_wrong_threshold(self) -> bool:
        return any(field.errors for field in self.thresholds())

    def clean_expected_domains(self) -> list[str]:
        names: list[str] = self.cleaned_data["expected_domains"]
        validate_sendable(names)
        return names

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        start, path = cleaned.get("start"), cleaned.get("draft_path")
        if start == "import" and "draft_path" in cleaned and not path:
            self.add_error("draft_path", "It is empty: give the directory, or begin with random weights.")
        if start == "copy" and "draft_version" in cleaned and not cleaned["draft_version"]:
            self.add_error("draft_version", "No version is chosen: choose one, or begin with random weights.")
        return cleaned

    def arguments(self) -> dict[str, Any]:
        """What registry.services.propose takes beside the origin; what was not chosen is left out."""
        given = self.cleaned_data
        found: dict[str, Any] = {name: given[name] for name in POLICY_FIELDS}
        found |= {"slug": given["slug"].strip(), "name": given["display_name"].strip()}
        found["is_traffic_enabled"] = given["is_traffic_enabled"]
        if given["start"] == "import":
            found["draft_path"] = given["draft_path"].strip()
        elif given["start"] == "copy":
            found["draft_version"] = given["draft_version"]
        return found


def _words(version: SpeculatorVersion) -> str:
    length = version.accept_length()
    measured = f", accept length {length:.2f}" if length is not None else ""
    return version.status.replace("_", " ") + measured


class BulkForm(forms.Form):
    text = forms.CharField(
        label="Targets, as YAML",
        required=False,
        strip=False,
        max_length=MAX_FILE_BYTES,
        widget=forms.Textarea({"rows": 14, "spellcheck": "false"}),
    )
    file = forms.FileField(label="Or a YAML file", required=False, help_text="It takes the place of the text above.")
    mode = forms.ChoiceField(
        label="What to register", required=False, choices=list(MODES.items()), widget=forms.RadioSelect, initial="all"
    )


def typed(request: HttpRequest, form: type[SourceForm | PlanForm | BulkForm]) -> Mapping[str, str]:
    """What was typed into a form's fields, as text; a chosen file takes the place of the field that it fills."""
    fields = {name for name, field in form.base_fields.items() if not isinstance(field, forms.FileField)}
    found = {name: str(request.POST[name]) for name in fields if name in request.POST}
    for file_field, name in (("config_file", "config"), ("file", "text")):
        file = request.FILES.get(file_field)
        if file is not None and name in fields:
            found[name] = file.read(MAX_FILE_BYTES + 1).decode("utf-8", "replace")
    return found
