"""Telling people: signed webhooks and e-mail, each notification a row with its attempts.

A webhook is a POST of JSON. ``X-Aurora-Signature: v1=<hex>`` is HMAC-SHA256 over ``<X-Aurora-Timestamp>.<body>`` with
the channel's secret; a receiver refuses timestamps older than five minutes, and drops an ``X-Aurora-Delivery`` that it
has seen before (an attempt whose answer was lost is made again).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from datetime import datetime, timedelta
from typing import Any

import httpx
from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from aurora_web.registry.models import SpeculatorVersion
from aurora_web.rollouts.links import decision_link
from aurora_web.rollouts.models import Alert, Channel, ChannelKind, Delivery, DeliveryState, Rule, Silence

log = logging.getLogger(__name__)
BACKOFF_SECONDS = (10, 60, 300, 1800, 7200)  # after the first, second, ... failed attempt; then it has failed
TIMEOUT_SECONDS = 5.0
GRACE = timedelta(seconds=30)  # a delivery that is overdue by so long has lost its message at the broker
KEPT = timedelta(days=30)


def tell_alert(alert: Alert, event: str, now: datetime) -> bool:
    """Tell every channel that an alert fires, has ended, or is closed without data; False where a silence covers it."""
    if any(silence.covers(alert) for silence in Silence.objects.filter(expires_at__gt=now)):
        return False
    _, path = decision_link(alert)
    facts = {"rule": alert.rule, "subject": alert.replica, "since": alert.since.isoformat(), "alert": alert.pk}
    if event == "alert.resolved":
        facts["is_known_to_be_over"] = alert.unknown_since is None
    _tell(event, alert.target_slug, _words(alert, event), path, facts)
    return True


def _words(alert: Alert, event: str) -> str:
    rule = Rule(alert.rule).label
    if event == "alert.firing":
        return f"{rule}: {alert.detail}"
    if alert.unknown_since is None:
        return f"Ended: {rule}. It was: {alert.detail}"
    return f"Closed, not known to be over: {rule}; {alert.unknown_why}. It was: {alert.detail}"


def tell_approval(version: SpeculatorVersion, reason: str) -> None:
    """Tell every channel that a version waits for a person; the link opens the page with the decision."""
    path = f"/approvals/{version.pk}/"
    words = f"{version} passed the gate and waits for a person: {reason}"
    _tell("approval.waiting", version.target.slug, words, path, {"version": version.number})


def tell_canary(version: SpeculatorVersion, reason: str) -> None:
    """Tell every channel that a canary is good and that a freeze keeps it from going live."""
    words = f"{version} would go live, but {version.target.slug} is frozen: promote it or unfreeze. {reason}"
    _tell("approval.waiting", version.target.slug, words, f"/approvals/{version.pk}/", {"version": version.number})


def _tell(event: str, target: str, words: str, path: str, facts: dict[str, Any]) -> None:
    payload = {"event": event, "target": target, "text": words, "url": f"{settings.CONSOLE_URL}{path}", **facts}
    for channel in Channel.objects.filter(is_enabled=True):
        send(channel, event, payload)


def send(channel: Channel, event: str, payload: dict[str, Any]) -> Delivery:
    """One notification; its first attempt is made by a worker as soon as this transaction has committed."""
    delivery = Delivery.objects.create(channel=channel, event=event, payload=payload)
    transaction.on_commit(lambda: _enqueue(delivery.pk, 0), robust=True)
    return delivery


def _enqueue(delivery_id: int, seconds: float) -> None:
    from aurora_web.rollouts.tasks import deliver

    deliver.apply_async((delivery_id,), countdown=seconds)


def resend(now: datetime) -> int:
    """Deliveries whose message the broker has lost get another one; old rows go. Returns how many were resent."""
    lost = list(
        Delivery.objects.filter(state=DeliveryState.WAITING, due_at__lt=now - GRACE).values_list("pk", flat=True)
    )
    for delivery_id in lost[:100]:
        _enqueue(delivery_id, 0)
    Delivery.objects.filter(finished_at__lt=now - KEPT).delete()
    return len(lost)


def attempt(delivery_id: int) -> None:
    """Try a delivery once. Whoever claims the attempt makes it; a failed one is due again later."""
    now = timezone.now()
    delivery = Delivery.objects.select_related("channel").filter(pk=delivery_id, state=DeliveryState.WAITING).first()
    if delivery is None or delivery.due_at > now + timedelta(seconds=1):
        return
    number = delivery.num_attempts
    wait = BACKOFF_SECONDS[min(number, len(BACKOFF_SECONDS) - 1)]
    claim = Delivery.objects.filter(pk=delivery_id, num_attempts=number, state=DeliveryState.WAITING)
    if not claim.update(num_attempts=F("num_attempts") + 1, due_at=now + timedelta(seconds=wait)):
        return
    is_done, answer = _try(delivery)
    rest: dict[str, Any] = {"answer": answer[:300]}
    if is_done or number >= len(BACKOFF_SECONDS):
        rest |= {"state": DeliveryState.DELIVERED if is_done else DeliveryState.FAILED, "finished_at": timezone.now()}
    else:
        _enqueue(delivery_id, wait)
    Delivery.objects.filter(pk=delivery_id).update(**rest)
    if not is_done:
        log.warning("delivery %d to %s, attempt %d: %s", delivery_id, delivery.channel, number + 1, answer)


def _try(delivery: Delivery) -> tuple[bool, str]:
    """Whether it was taken, and the answer in words."""
    try:
        return _post(delivery) if delivery.channel.kind == ChannelKind.WEBHOOK else _mail(delivery)
    except Exception as error:  # an answer too: a delivery that raised for ever would be waiting for ever
        log.exception("delivery %d to %s", delivery.pk, delivery.channel)
        return False, f"{type(error).__name__}: {error}"


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """What a receiver compares, in constant time, with X-Aurora-Signature."""
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _post(delivery: Delivery) -> tuple[bool, str]:
    body = json.dumps(delivery.payload, ensure_ascii=False).encode()
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Aurora",
        "X-Aurora-Event": delivery.event,
        "X-Aurora-Delivery": str(delivery.pk),
        "X-Aurora-Timestamp": timestamp,
        "X-Aurora-Signature": signature(delivery.channel.secret, timestamp, body),
    }
    try:
        found = httpx.post(delivery.channel.address, content=body, headers=headers, timeout=TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return False, f"{type(error).__name__}: {error}"
    return found.is_success, f"HTTP {found.status_code}"


def _mail(delivery: Delivery) -> tuple[bool, str]:
    if not settings.EMAIL_URL:
        return False, "e-mail is not set up: AURORA_EMAIL_URL is empty"
    payload = delivery.payload
    where = f"[Aurora {payload['target']}] " if payload["target"] else "[Aurora] "
    title = where + " ".join(payload["text"].split())[:120]  # one line: a header with another in it is refused
    message = EmailMessage(title, f"{payload['text']}\n\n{payload['url']}\n", to=_addresses(delivery.channel.address))
    try:
        message.send()
    except OSError as error:  # smtplib's errors are OSErrors too
        return False, f"{type(error).__name__}: {error}"
    return True, f"sent to {delivery.channel.address}"


def _addresses(text: str) -> list[str]:
    return [address.strip() for address in text.split(",") if address.strip()]
