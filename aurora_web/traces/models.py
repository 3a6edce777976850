"""Traces and the segment files that hold their hidden states."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils import timezone

from aurora_web.registry.models import Target
from speculators.records import DomainPin


class TraceSegment(models.Model):
    """A sealed file of hidden states, as announced by the replica that wrote it."""

    id = models.UUIDField(primary_key=True)
    target = models.ForeignKey(Target, on_delete=models.CASCADE, related_name="segments")
    replica = models.CharField(max_length=200)
    uri = models.CharField(max_length=1000)
    sha256 = models.CharField(max_length=64)
    size_bytes = models.BigIntegerField()
    num_traces = models.IntegerField()
    num_tokens = models.BigIntegerField()
    aux_layer_ids = ArrayField(models.IntegerField())
    hidden_size = models.IntegerField()
    dtype = models.CharField(max_length=16)
    sealed_at = models.DateTimeField()
    received_at = models.DateTimeField(default=timezone.now)
    expired_at = models.DateTimeField(null=True)  # the file was deleted; the traces' tokens stay

    class Meta:
        indexes = [models.Index(fields=["sealed_at"], condition=models.Q(expired_at=None), name="segment_unexpired")]


class Trace(models.Model):
    """One finished request; a row of a day partition (the table is made in SQL by the first migration)."""

    pk = models.CompositePrimaryKey("trace_id", "started_at")
    trace_id = models.UUIDField()
    started_at = models.DateTimeField()  # partition key
    received_at = models.DateTimeField()
    target = models.ForeignKey(Target, on_delete=models.DO_NOTHING, related_name="traces", db_constraint=False)
    segment_id = models.UUIDField()
    domain = models.CharField(max_length=100)
    version = models.IntegerField()  # speculator version number that served it, or most of it; 0 = control
    version_spans = models.JSONField(null=True)  # [[version, num_steps], ...] where a swap reached the request
    tokens = ArrayField(models.IntegerField())
    prompt_len = models.IntegerField()
    first_state = models.IntegerField()
    lookahead = models.IntegerField()
    temperature = models.FloatField()
    finish_reason = models.CharField(max_length=16)
    decode_seconds = models.FloatField()
    steps = models.BinaryField()  # traces.codec.pack_steps
    # Sums over the steps, so that a search need not open them
    num_verify_steps = models.IntegerField()
    num_plain_steps = models.IntegerField(db_default=0)  # of them, those that had no draft to verify
    num_proposed_drafts = models.IntegerField()
    num_correct_drafts = models.IntegerField()
    is_held_out = models.BooleanField()  # decided once at ingest; never trained on
    lease_id = models.UUIDField(null=True)  # the slice that holds the trace
    lease_expires_at = models.DateTimeField(null=True)
    trained_at = models.DateTimeField(null=True)
    is_lost = models.BooleanField(default=False)  # a trainer found its hidden states gone and could not recompute

    class Meta:
        managed = False
        db_table = "traces_trace"

    @property
    def accept_length(self) -> float | None:
        """Of the steps that had drafts to verify; None where there are none."""
        num_drafted = self.num_verify_steps - self.num_plain_steps
        return 1 + self.num_correct_drafts / num_drafted if num_drafted else None

    @property
    def state(self) -> str:
        """What training has to do with it: held out, trained, lost, leased or waiting."""
        if self.is_held_out:
            return "held out"
        if self.trained_at is not None:
            return "trained"
        if self.is_lost:
            return "lost"
        is_leased = self.lease_expires_at is not None and self.lease_expires_at > timezone.now()
        return "leased" if is_leased else "waiting"


class DeletedTrace(models.Model):
    """A trace that a person deleted; append-only. A second delivery by its replica does not bring it back."""

    trace_id = models.UUIDField(primary_key=True)
    target = models.ForeignKey(Target, on_delete=models.CASCADE, related_name="deleted_traces")
    segment_id = models.UUIDField()  # the immutable file that holds its hidden states until it expires
    was_trained = models.BooleanField()
    actor = models.CharField(max_length=150)
    reason = models.TextField()
    at = models.DateTimeField(default=timezone.now)


class TextRole(models.TextChoices):
    """Who may read the text of traces; everybody else sees lengths and outcomes."""

    VIEWER = "viewer", "Everybody who can sign in"
    OPERATOR = "operator", "Operators and admins"
    ADMIN = "admin", "Admins only"


class TraceAccess(models.Model):
    """Who may read the text of one target's traces; without a row, operators and admins."""

    target = models.OneToOneField(Target, on_delete=models.CASCADE, related_name="trace_access")
    text_role = models.CharField(max_length=16, choices=TextRole.choices, default=TextRole.OPERATOR)


class RuleKind(models.TextChoices):
    EXACT = "exact", "is exactly"
    PREFIX = "prefix", "begins with"
    REGEX = "regex", "matches as a whole"


class DomainRule(models.Model):
    """What a client calls a domain -> what the console calls it, for everything that arrives while the rule holds."""

    target = models.ForeignKey(Target, on_delete=models.CASCADE, related_name="domain_rules")
    kind = models.CharField(max_length=16, choices=RuleKind.choices)
    pattern = models.CharField(max_length=200)  # of the header x-aurora-domain
    domain = models.CharField(max_length=100)
    actor = models.CharField(max_length=150)
    reason = models.TextField(blank=True)
    at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)  # set once; nothing else ever changes
    ended_by = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering = ["-at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["target", "kind", "pattern"], condition=models.Q(ended_at=None), name="one_active_domain_rule"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pattern} -> {self.domain}"


class PinChange(models.Model):
    """One change of what is pinned for a domain; append-only, and the newest one of a domain holds."""

    target = models.ForeignKey(Target, on_delete=models.CASCADE, related_name="pin_changes")
    domain = models.CharField(max_length=100)
    revision = models.PositiveIntegerField()  # of all pins of the target; replicas say which one they run
    lookahead = models.PositiveSmallIntegerField(null=True)  # None = the engine chooses
    speculation_off = models.BooleanField(default=False)
    no_training = models.BooleanField(default=False)
    undoes = models.PositiveIntegerField(null=True)  # the revision that this one took back
    actor = models.CharField(max_length=150)
    reason = models.TextField(blank=True)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-revision"]
        constraints = [models.UniqueConstraint(fields=["target", "revision"], name="one_pin_change_per_revision")]
        indexes = [models.Index(fields=["target", "domain", "-revision"], name="pin_domain")]

    def __str__(self) -> str:
        return f"{self.domain}: {self.words}"

    @property
    def pin(self) -> DomainPin:
        """As replicas get it."""
        return DomainPin(self.domain, self.lookahead, self.speculation_off, self.no_training)

    @property
    def words(self) -> str:
        """What is fixed, in words."""
        return pin_words(self.pin)


def pin_words(pin: DomainPin) -> str:
    """What a pin fixes, in words."""
    said = [] if pin.lookahead is None else [f"lookahead {pin.lookahead}"]
    said += ["speculation off"] if pin.speculation_off else []
    said += ["no training"] if pin.no_training else []
    return ", ".join(said) or "nothing pinned"
