"""Targets, the speculator versions of each, and every change of a version's status."""

from __future__ import annotations

import json
import math
import uuid
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.utils import timezone

MAX_WEIGHT = 1_000_000  # of a domain in the demo traffic's mix
LOOKAHEAD = 4  # of a new target, at most


class Source(models.TextChoices):
    EMBEDDED = "embedded", "The embedded engine, which Aurora starts by itself"
    SGLANG = "sglang", "SGLang servers of yours, with Aurora's plugin"


class ApprovalPolicy(models.TextChoices):
    AUTOMATIC = "automatic", "A version that passes the gate goes live by itself"
    MANUAL = "manual", "A person approves every version"


class Approvers(models.TextChoices):
    OPERATOR = "operator", "Operators and admins"
    ADMIN = "admin", "Admins only"


class Status(models.TextChoices):
    CANDIDATE = "candidate"
    PASSED = "passed"
    REJECTED = "rejected"
    CANARY = "canary"
    LIVE = "live"
    RETIRED = "retired"
    ROLLED_BACK = "rolled_back"


# A retired or rolled-back version may come back: that is what a rollback, and a person's second thought, are.
ALLOWED_TRANSITIONS: dict[str, frozenset[str]] = {
    Status.CANDIDATE: frozenset({Status.PASSED, Status.REJECTED}),
    Status.PASSED: frozenset({Status.CANARY, Status.LIVE, Status.REJECTED}),
    Status.CANARY: frozenset({Status.LIVE, Status.ROLLED_BACK}),
    Status.LIVE: frozenset({Status.RETIRED, Status.ROLLED_BACK}),
    Status.RETIRED: frozenset({Status.LIVE}),
    Status.REJECTED: frozenset(),
    Status.ROLLED_BACK: frozenset({Status.LIVE}),
}


def validate_finite(number: float) -> None:
    """No NaN, which every comparison lets through, and no infinity."""
    if not math.isfinite(number):
        raise ValidationError(f"{number} is no number that can be compared")


def bounds(low: float, high: float) -> list[Any]:
    return [validate_finite, MinValueValidator(low), MaxValueValidator(high)]


def unit_interval() -> list[Any]:
    return bounds(0.0, 1.0)


def validate_mix(mix: Any) -> None:
    """{domain: weight}, weights from 0 to MAX_WEIGHT."""
    if not isinstance(mix, dict):
        raise ValidationError(f'{_json(mix)} is no mix: expected domains with weights, like {{"sql": 2, "chat": 1}}')
    for name, weight in mix.items():
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not 0 <= weight <= MAX_WEIGHT:
            raise ValidationError(f"the weight of {name!s:.40} is {_json(weight)}: expected 0 to {MAX_WEIGHT:,}")


def validate_schedule(schedule: Any) -> None:
    """[{"seconds": s, "mix": {...}}, ...], s above 0."""
    for phase in schedule if isinstance(schedule, list) else [schedule]:
        if not isinstance(phase, dict) or phase.keys() != {"seconds", "mix"}:
            raise ValidationError(f'{_json(phase)} is no phase: expected {{"seconds": 120, "mix": {{"sql": 1}}}}')
        seconds = phase["seconds"]
        if not isinstance(seconds, int | float) or not 1 <= seconds <= 86400:
            raise ValidationError(f"seconds is {_json(seconds)}: expected 1 to 86400")
        validate_mix(phase["mix"])


def _json(value: Any) -> str:
    """A value as people and scripts write it, cut short."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = str(value)
    return text if len(text) <= 120 else f"{text[:119]}…"


def validate_json(content: Any) -> int:
    """What Postgres can keep as JSON, and how many bytes it has: no NaN, no NUL."""
    try:
        text = json.dumps(content, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ValidationError(f"it cannot be kept as JSON: {error}") from error
    if "\\u0000" in text:
        raise ValidationError("it holds a NUL character")
    return len(text)


def validate_stored(content: Any) -> None:
    """``validate_json`` as a validator."""
    validate_json(content)


def validate_domains(names: Any) -> None:
    """["sql", "prose"]: up to 50 different names of 1 to 100 characters."""
    if not isinstance(names, list):
        raise ValidationError(f'{_json(names)} is no list of domains: expected one like ["sql", "prose"]')
    if len(names) > 50:
        raise ValidationError(f"there are {len(names)} domains: expected at most 50")
    for name in names:
        if not isinstance(name, str) or not 0 < len(name.strip()) <= 100:
            raise ValidationError(f"{_json(name)} is no domain: expected names of 1 to 100 characters, like sql, prose")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValidationError(f"{_json(name)} is there more than once")
        seen.add(name)


class Target(models.Model):
    """A model that is served, with its policy and its demo traffic."""

    slug = models.CharField(
        max_length=64, unique=True, validators=[RegexValidator(r"^[a-z0-9][a-z0-9._-]*$", "lower-case letters, digits")]
    )
    name = models.CharField(max_length=200)
    source = models.CharField(max_length=16, choices=Source.choices, default=Source.EMBEDDED)
    # Absolute checkpoint directory, read by engine and trainer; "" = the trainer's AURORA_MODELS_DIR/model_id
    path = models.CharField(max_length=1000, blank=True)
    model_id = models.CharField(max_length=200, blank=True)  # what SGLang is told to load; "" = the directory
    config = models.JSONField(default=dict, blank=True, validators=[validate_stored])  # its config.json
    draft_path = models.CharField(max_length=1000, blank=True)  # EAGLE-3 checkpoint that version 1 is; "" = random
    # Another target's version that version 1 is a copy of; its directory is then the draft_path
    draft_version = models.ForeignKey(
        "SpeculatorVersion", null=True, blank=True, on_delete=models.PROTECT, related_name="copies"
    )
    architecture = models.CharField(max_length=100)  # e.g. "Qwen3ForCausalLM"
    num_layers = models.IntegerField()
    hidden_size = models.IntegerField()
    vocab_size = models.IntegerField()
    is_active = models.BooleanField(default=True)  # inactive: no engine, no training
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.CharField(max_length=150)

    # Policy
    approval = models.CharField(max_length=16, choices=ApprovalPolicy.choices, default=ApprovalPolicy.AUTOMATIC)
    approvers = models.CharField(max_length=16, choices=Approvers.choices, default=Approvers.OPERATOR)
    may_approve_own = models.BooleanField(default=True)  # what oneself registered, had trained now or judged again
    # Relative gain of accept_length over live that the gate asks for
    min_gain = models.FloatField(default=0.01, validators=bounds(-0.5, 10.0))
    domain_tolerance = models.FloatField(default=0.1, validators=unit_interval())  # relative loss one domain may take
    min_held_out_traces = models.PositiveIntegerField(default=4)
    slice_seconds = models.FloatField(default=8.0, validators=bounds(0.5, 600.0))
    control_share = models.FloatField(default=0.02, validators=unit_interval())  # of the steps, without speculation
    max_lookahead = models.PositiveIntegerField(default=LOOKAHEAD, validators=[MaxValueValidator(16)])
    # Absolute floor after a swap; 0 = only the relative one. No step accepts more than 16 drafts and a token.
    min_accept_length = models.FloatField(default=0.0, validators=bounds(0.0, 17.0))
    canary_share = models.FloatField(default=0.0, validators=unit_interval())  # of the replicas; 0 = no canary
    canary_minutes = models.FloatField(default=5.0, validators=bounds(0.1, 10080.0))
    canary_min_requests = models.PositiveIntegerField(default=50)  # on either side, before a canary is judged
    expected_domains = models.JSONField(
        default=list, blank=True, validators=[validate_domains]
    )  # shown without data too
    trace_days = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(3650)]
    )  # None = retention.services.kept().trace_days

    # Traffic of the demo's generator
    traffic_enabled = models.BooleanField(default=False)
    traffic_concurrency = models.PositiveIntegerField(
        default=1, validators=[MinValueValidator(1), MaxValueValidator(64)]
    )
    traffic_requests_per_second = models.FloatField(
        default=0.0, validators=bounds(0.0, 10_000.0)
    )  # 0 = closed loop at the given concurrency
    traffic_mix = models.JSONField(
        default=dict, blank=True, validators=[validate_mix]
    )  # {domain: weight}; {} = all domains of real prompts alike
    traffic_max_tokens = models.PositiveIntegerField(
        default=96, validators=[MinValueValidator(1), MaxValueValidator(4096)]
    )
    traffic_sampled_share = models.FloatField(default=0.0, validators=unit_interval())  # decoded at temperature 0.7
    # [{"seconds": 120, "mix": {...}}, ...], repeated; [] = traffic_mix all the time
    traffic_schedule = models.JSONField(default=list, blank=True, validators=[validate_schedule])

    class Meta:
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.slug

    @property
    def is_on_sglang(self) -> bool:
        return self.source == Source.SGLANG

    @property
    def learnt_lookahead(self) -> int:
        """What drafts are trained and judged for; while speculation is off, what a new target has."""
        return self.max_lookahead or LOOKAHEAD

    @property
    def origin(self) -> str:
        """What the operator registered: a directory or a model id."""
        return self.model_id or self.path

    def traffic(self) -> dict[str, Any]:
        """Traffic settings under the names of the API, without the engine's address."""
        return {
            "slug": self.slug,
            "enabled": self.traffic_enabled and self.is_active,
            "concurrency": self.traffic_concurrency,
            "requests_per_second": self.traffic_requests_per_second,
            "mix": self.traffic_mix,
            "max_tokens": self.traffic_max_tokens,
            "sampled_share": self.traffic_sampled_share,
            "schedule": self.traffic_schedule,
        }


class TrafficReport(models.Model):
    """What the generator of demo traffic last said about a target; one row each, written over."""

    target = models.OneToOneField(Target, on_delete=models.CASCADE, related_name="traffic_report")
    at = models.DateTimeField()  # when it arrived
    seconds = models.FloatField()  # that the counts are of
    num_requests = models.PositiveIntegerField()  # that were answered
    num_failures = models.PositiveIntegerField()
    last_failure = models.CharField(max_length=500, blank=True)
    problem = models.CharField(max_length=500, blank=True)  # why its settings cannot be followed; "" = they are

    def __str__(self) -> str:
        return f"{self.target.slug}: {self.num_failures} failed, {self.num_requests} answered"


class SpeculatorVersion(models.Model):
    """An immutable checkpoint of a speculator; only ``status`` changes, and only through services.transition."""

    target = models.ForeignKey(Target, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    parent = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="children")
    status = models.CharField(max_length=16, choices=Status.choices, default=Status.CANDIDATE)
    uri = models.CharField(max_length=1000)
    sha256 = models.CharField(max_length=64)
    size_bytes = models.BigIntegerField()
    config = models.JSONField(default=dict)
    provenance = models.JSONField(default=dict)
    report = models.JSONField(null=True, blank=True)  # EvalReport; None on day 0
    created_at = models.DateTimeField(default=timezone.now)
    pruned_at = models.DateTimeField(null=True, blank=True)  # its files were deleted to save space; it cannot come back

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["target", "number"], name="version_number_once_per_target"),
            models.UniqueConstraint(
                fields=["target"], condition=models.Q(status="live"), name="one_live_version_per_target"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.target.slug} v{self.number}"

    @property
    def is_imported(self) -> bool:
        """Whether somebody else trained it."""
        return "imported_from" in self.provenance

    @property
    def is_random(self) -> bool:
        """Whether it is day 0's: weights that no optimiser step has touched."""
        return self.parent_id is None and not self.is_imported and not self.provenance.get("step")

    def accept_length(self) -> float | None:
        """Accept length of the replayed held-out traces over all domains; None without a report."""
        scores = (self.report or {}).get("candidate", [])
        steps = sum(s["num_verify_steps"] for s in scores)
        return sum(s["num_accept_tokens"] for s in scores) / steps if steps else None


class Transition(models.Model):
    """One change of a version's status; append-only."""

    version = models.ForeignKey(SpeculatorVersion, on_delete=models.CASCADE, related_name="transitions")
    old = models.CharField(max_length=16)  # "" = created
    new = models.CharField(max_length=16)
    reason = models.TextField()
    actor = models.CharField(max_length=150)
    at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.version}: {self.old} -> {self.new}"


class RegistrationDraft(models.Model):
    """What somebody has typed into the registration wizard so far; nobody else sees it, and it expires."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="registration_drafts")
    given = models.JSONField(default=dict)  # {step: {field: what was typed}}
    touched_at = models.DateTimeField(default=timezone.now)
    target = models.ForeignKey(Target, null=True, on_delete=models.CASCADE, related_name="+")  # what became of it

    class Meta:
        ordering = ["-touched_at"]

    @property
    def title(self) -> str:
        """How its owner tells it from others."""
        if "bulk" in self.given:
            return "a YAML file"
        source, plan = self.given.get("source", {}), self.given.get("plan", {})
        names = [plan.get("slug"), *(source.get(name) for name in ("path", "model_id", "replica"))]
        return next((name for name in names if name), "without a source")


class AnnouncedReplica(models.Model):
    """A server that reported with a valid token for a target that is not registered: what it says about its model."""

    slug = models.CharField(max_length=64)  # of the target that it was started for
    name = models.CharField(max_length=200)
    engine = models.CharField(max_length=100)
    url = models.CharField(max_length=500)
    model_path = models.CharField(max_length=1000)  # directory or model id on its launch line
    draft_path = models.CharField(max_length=1000, blank=True)  # that it was launched with
    aux_layer_ids = models.JSONField(default=list)  # that it captures
    config = models.JSONField()  # the target's config.json
    first_seen_at = models.DateTimeField(default=timezone.now)
    seen_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["slug", "name"]
        constraints = [models.UniqueConstraint(fields=["slug", "name"], name="one_announcement_per_replica")]

    def __str__(self) -> str:
        return f"{self.name} for {self.slug}"
