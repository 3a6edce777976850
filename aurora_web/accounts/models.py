"""People, what they may do, and what they did."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils import timezone

from aurora_web.accounts.scopes import ADMINISTER, INGEST, OPERATE, SCOPES, allows


class Role(models.TextChoices):
    """What a person may do; each role includes the ones before it."""

    VIEWER = "viewer", "Viewer: read and export"
    OPERATOR = "operator", "Operator: register, start, approve, roll back"
    ADMIN = "admin", "Admin: policies, users, tokens"


class TokenRole(models.TextChoices):
    """What a token may do: a person's role, or that of an engine."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    REPLICA = "replica"


class Theme(models.TextChoices):
    SYSTEM = "system", "As the system says"
    LIGHT = "light", "Light"
    DARK = "dark", "Dark"


class User(AbstractUser):
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.VIEWER)
    theme = models.CharField(max_length=8, choices=Theme.choices, default=Theme.SYSTEM)
    time_zone = models.CharField(max_length=64, blank=True, default="")  # e.g. "Europe/Berlin"; "" = the browser's

    @property
    def scopes(self) -> frozenset[str]:
        return SCOPES[self.role] if self.is_active else frozenset()

    @property
    def is_operator(self) -> bool:
        return allows(self.scopes, OPERATE)

    @property
    def is_admin(self) -> bool:
        return allows(self.scopes, ADMINISTER)


class OidcIdentity(models.Model):
    """Who a person is to an OpenID Connect provider; names and addresses may change there, these two never do."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="identities")
    issuer = models.CharField(max_length=500)
    subject = models.CharField(max_length=255)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["issuer", "subject"], name="one_person_per_identity")]


class ApiToken(models.Model):
    """A machine's key: the secret is shown once, only its sha256 is kept."""

    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=12)  # first characters of the secret, so that a person can tell tokens apart
    digest = models.CharField(max_length=64, unique=True)
    role = models.CharField(max_length=16, choices=TokenRole.choices, blank=True)  # "" = the scopes in granted
    granted = models.JSONField(default=list, blank=True)
    # Whose role bounds it; null = nobody's: made on the server, or for the engines of one target
    owner = models.ForeignKey(User, null=True, blank=True, on_delete=models.CASCADE, related_name="tokens")
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.name} ({self.may})"

    @property
    def scopes(self) -> frozenset[str]:
        """What it may do now: never more than its owner, except to report as an engine."""
        granted = SCOPES[self.role] if self.role else frozenset(self.granted)
        return granted if self.owner is None else granted & (self.owner.scopes | {INGEST})

    @property
    def may(self) -> str:
        """The role that was asked for, or the scopes."""
        return self.role or ", ".join(self.granted)

    @property
    def scope_names(self) -> str:
        return ", ".join(sorted(self.scopes))

    @property
    def is_usable(self) -> bool:
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > timezone.now())


class Invite(models.Model):
    """A one-time link that creates a user of ``role``."""

    digest = models.CharField(max_length=64, unique=True)
    role = models.CharField(max_length=16, choices=Role.choices)
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)
    used_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL)

    @property
    def is_usable(self) -> bool:
        return self.used_at is None and self.expires_at > timezone.now()


class AuditEvent(models.Model):
    """Who did what to which thing, and why; append-only: the database refuses updates and deletes."""

    at = models.DateTimeField(default=timezone.now, db_index=True)
    actor = models.CharField(max_length=150)  # user name, "token:<name>", or the part of Aurora that acted
    action = models.CharField(max_length=64)  # e.g. "target.register", "version.approve"
    subject = models.CharField(max_length=200)  # e.g. "demo", "demo v12"
    target_slug = models.CharField(max_length=64, blank=True, db_index=True)
    reason = models.TextField(blank=True)
    detail = models.JSONField(default=dict)  # "old" and "new": what changed, by field; the rest are facts
    request_id = models.CharField(max_length=64, blank=True, default="")  # "" = no request: a policy, a replica, a beat

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [
            models.Index(fields=["actor", "-id"], name="audit_actor"),
            models.Index(fields=["action", "-id"], name="audit_action"),
            models.Index(fields=["target_slug", "-id"], name="audit_target"),
            models.Index(fields=["request_id"], name="audit_request"),
        ]

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.subject}"

    @property
    def before(self) -> dict[str, Any]:
        return self._side("old")

    @property
    def after(self) -> dict[str, Any]:
        return self._side("new")

    def _side(self, name: str) -> dict[str, Any]:
        side = self.detail.get(name)
        return side if isinstance(side, dict) else {} if side is None else {"value": side}

    @property
    def changes(self) -> list[tuple[str, Any, Any]]:
        """(field, before, after) of everything that changed."""
        before, after = self.before, self.after
        return [(name, before.get(name), after.get(name)) for name in {**before, **after}]

    @property
    def facts(self) -> dict[str, Any]:
        """What else was noted down."""
        return {name: value for name, value in self.detail.items() if name not in ("old", "new")}

    @property
    def version_number(self) -> int | None:
        """The version that it is about; None where it is about something else."""
        slug, _, number = self.subject.rpartition(" v")
        return int(number) if slug and slug == self.target_slug and number.isdecimal() else None


class IdempotentAnswer(models.Model):
    """What a POST with an Idempotency-Key was answered; kept for a day (aurora_web/idempotency.py)."""

    caller = models.CharField(max_length=64)  # digest of name and scopes
    key = models.CharField(max_length=200)
    asked = models.CharField(max_length=64)  # digest of address and body
    status = models.PositiveSmallIntegerField(null=True)  # this and the rest: set when the answer is known
    content_type = models.CharField(max_length=100, blank=True)
    body = models.BinaryField(default=bytes)
    is_secret = models.BooleanField(default=False)  # the body was not kept
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["caller", "key"], name="one_answer_per_key")]
