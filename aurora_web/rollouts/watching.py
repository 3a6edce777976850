"""What people decide about alerting: thresholds, silences and channels; every write leaves an audit row."""

from __future__ import annotations

import re
import secrets
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.utils import timezone

from aurora_web import live
from aurora_web.accounts.services import record
from aurora_web.registry.models import Target
from aurora_web.rollouts.models import Channel, ChannelKind, Delivery, Rule, RuleSetting, Silence
from aurora_web.rollouts.notifications import send
from aurora_web.rollouts.rules import CONSOLE_SPECS, SPECS, Spec

MAX_SILENCE_HOURS = 24 * 30


class WatchError(ValueError):
    """What a person asked for about alerting cannot be done; the message names the value and what would be right."""


def spec_of(rule: str, target: Target | None) -> Spec:
    """The rule of this name at a target, or at the console itself. Raises WatchError."""
    specs = CONSOLE_SPECS if target is None else SPECS
    found = {str(known): spec for known, spec in specs.items()}.get(rule)
    if found is None:
        where = "of the console itself" if target is None else "of a target"
        raise WatchError(f"{rule!r:.80} is no rule {where}: expected one of {', '.join(map(str, specs))}")
    return found


@transaction.atomic
def set_rule(target: Target | None, rule: str, actor: str, *, threshold: float | None, is_enabled: bool) -> RuleSetting:
    """Change a rule at one target; ``threshold`` None is the default. Raises WatchError."""
    spec = spec_of(rule, target)
    if threshold is not None and not spec.unit:
        raise WatchError(f"{rule} has no threshold: leave it out")
    if threshold is not None and not spec.low <= threshold <= spec.high:
        raise WatchError(f"threshold is {threshold:g}, expected {spec.low:g} to {spec.high:g} {spec.unit}")
    row, _ = RuleSetting.objects.select_for_update().get_or_create(target=target, rule=rule)
    old = {"threshold": row.threshold, "is_enabled": row.is_enabled}
    row.threshold, row.is_enabled = threshold, is_enabled
    row.save()
    slug = target.slug if target else ""
    detail = {"old": old, "new": {"threshold": threshold, "is_enabled": is_enabled}}
    record(actor, "alert.rule", f"{spec.rule.label} of {slug or 'the console'}", target_slug=slug, detail=detail)
    return row


@transaction.atomic
def silence(
    actor: str, hours: float, reason: str, target: Target | None = None, rule: str = "", replica: str = ""
) -> Silence:
    """Tell nobody about the alerts that match, for some hours. Raises WatchError."""
    if not 0 < hours <= MAX_SILENCE_HOURS:
        raise WatchError(f"hours is {hours:g}, expected more than 0 and at most {MAX_SILENCE_HOURS}")
    if not reason.strip():
        raise WatchError("reason is empty: say why nobody needs to be told")
    if rule and rule not in Rule.values:
        raise WatchError(f"{rule!r:.80} is no rule: expected one of {', '.join(Rule.values)}")
    row = Silence.objects.create(
        target=target,
        rule=rule,
        replica=replica[:200],
        reason=reason.strip(),
        created_by=actor,
        expires_at=timezone.now() + timedelta(hours=hours),
    )
    slug = target.slug if target else ""
    detail = {"new": {"rule": rule, "replica": replica, "expires_at": row.expires_at.isoformat()}}
    record(actor, "alert.silence", slug or "every target", target_slug=slug, reason=row.reason, detail=detail)
    live.publish(target.pk if target else live.CONSOLE, "alert", {"silence": row.pk})
    return row


@transaction.atomic
def end_silence(row: Silence, actor: str) -> bool:
    """Notifications again from now on; False when it had ended already."""
    now = timezone.now()
    if not Silence.objects.filter(pk=row.pk, expires_at__gt=now).update(expires_at=now, ended_by=actor):
        return False
    slug = row.target.slug if row.target else ""
    detail = {"old": {"expires_at": row.expires_at.isoformat()}, "new": {"expires_at": now.isoformat()}}
    record(actor, "alert.unsilence", slug or "every target", target_slug=slug, detail=detail)
    live.publish(row.target_id or live.CONSOLE, "alert", {"silence": row.pk})
    return True


def add_channel(name: str, kind: str, address: str, actor: str) -> tuple[Channel, str]:
    """A new channel and the webhook's secret ("" for e-mail), to be shown once. Raises WatchError."""
    name, address = name.strip(), address.strip()
    if not re.fullmatch(r"[^\x00-\x1f]{1,100}", name):
        raise WatchError(f"name is {name!r:.80}, expected 1 to 100 characters")
    if kind == ChannelKind.WEBHOOK:
        _check_url(address)
    elif kind == ChannelKind.EMAIL:
        _check_addresses(address)
    else:
        raise WatchError(f"kind is {kind!r:.80}, expected one of {', '.join(ChannelKind.values)}")
    secret = secrets.token_urlsafe(32) if kind == ChannelKind.WEBHOOK else ""
    try:
        with transaction.atomic():
            row = Channel.objects.create(name=name, kind=kind, address=address, secret=secret, created_by=actor)
            record(actor, "channel.create", f"channel {name}", detail={"new": _public(row)})
    except IntegrityError as error:
        raise WatchError(f"there is a channel {name!r} already: choose another name") from error
    return row, secret


def _public(row: Channel) -> dict[str, Any]:
    """What everybody may read: many services' webhook addresses hold a key, so only the host is told."""
    address = f"{urlsplit(row.address).hostname}/…" if row.kind == ChannelKind.WEBHOOK else row.address
    return {"kind": row.kind, "address": address}


def _check_url(address: str) -> None:
    try:
        url = urlsplit(address)
        is_right = url.scheme in {"http", "https"} and bool(url.hostname) and len(address) <= 500 and url.port != 0
    except ValueError:
        is_right = False
    if not is_right:
        raise WatchError(f"address is {address!r:.120}, expected a URL like https://hooks.example.org/aurora")


def _check_addresses(address: str) -> None:
    parts = [part.strip() for part in address.split(",")]
    for part in parts:
        try:
            validate_email(part)
        except ValidationError as error:
            raise WatchError(f"address holds {part!r:.120}, expected e-mail addresses with commas between") from error
    if len(address) > 500:
        raise WatchError("address is longer than 500 characters: make a second channel")


@transaction.atomic
def remove_channel(row: Channel, actor: str) -> None:
    """Delete a channel and its delivery log."""
    record(actor, "channel.delete", f"channel {row.name}", detail={"old": _public(row)})
    row.delete()


@transaction.atomic
def send_test(row: Channel, actor: str) -> Delivery:
    """Send a test notification; its delivery tells how it went."""
    record(actor, "channel.test", f"channel {row.name}")
    words = f"This is a test from {actor}: notifications of Aurora arrive here."
    payload = {"event": "test", "target": "", "text": words, "url": f"{settings.CONSOLE_URL}/alerts/channels/"}
    return send(row, "test", payload)
