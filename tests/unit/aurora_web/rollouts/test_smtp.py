"""Alerts and approvals arrive at a real SMTP server through the product's own settings, queue task and backend."""

import pytest

from aurora_web import environment
from aurora_web.registry.models import Target
from aurora_web.rollouts import notifications, replicas, watching
from aurora_web.rollouts.models import Delivery
from aurora_web.rollouts.tasks import deliver
from tests.browser.mailbox import Mailbox, link_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def mailbox(settings, monkeypatch):
    """The console sends to it; a task that would be queued runs at once."""
    monkeypatch.setattr(notifications, "_enqueue", lambda delivery, seconds: seconds or deliver(delivery))
    with Mailbox() as found:
        settings.EMAIL_URL = found.url
        for name, value in environment.email(found.url).items():
            setattr(settings, name, value)
        yield found


def test_an_alert_and_its_end_are_mailed(target, observed, mailbox, settings, django_capture_on_commit_callbacks):
    watching.add_channel("on call", "email", "ada@example.org, bob@example.org", "ada")
    with django_capture_on_commit_callbacks(execute=True):
        replicas.observe(observed(capture_state="broken", capture_detail="the disk is full"))
        replicas.observe(observed())
    begun, ended = mailbox.mails()
    assert begun["Subject"] == "[Aurora demo] Capture broken: r1 serves, but keeps no traces: the disk is full."
    assert begun["From"] == settings.DEFAULT_FROM_EMAIL
    assert begun["X-Envelope-To"] == "ada@example.org, bob@example.org"
    assert link_in(begun) == f"{settings.CONSOLE_URL}/targets/demo/#replicas"
    assert "Ended: Capture broken" in ended["Subject"]
    assert {delivery.state for delivery in Delivery.objects.all()} == {"delivered"}


def test_an_approval_is_mailed_with_the_page_that_decides(
    target, judged, report, mailbox, settings, django_capture_on_commit_callbacks
):
    watching.add_channel("on call", "email", "ada@example.org", "ada")
    Target.objects.update(approval="manual")
    judged()
    with django_capture_on_commit_callbacks(execute=True):
        second = judged(report({"sql": (2.0, 1.0)}))
    [mail] = mailbox.mails("passed the gate")
    assert link_in(mail) == f"{settings.CONSOLE_URL}/approvals/{second.pk}/"


def test_a_server_that_refuses_is_tried_again(target, observed, mailbox, settings, django_capture_on_commit_callbacks):
    settings.EMAIL_PORT = 1  # nobody listens there
    watching.add_channel("on call", "email", "ada@example.org", "ada")
    with django_capture_on_commit_callbacks(execute=True):
        replicas.observe(observed(capture_state="broken"))
    [delivery] = Delivery.objects.all()
    assert (delivery.state, delivery.num_attempts) == ("waiting", 1)
    assert "ConnectionRefusedError" in delivery.answer
    assert mailbox.mails() == []
