"""Who is told, by signed webhooks and e-mail; retries, silences, and the pages about them."""

import hashlib
import hmac
import json
import re
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from django.core import mail
from django.core.cache import cache
from django.utils import timezone

from aurora_web.accounts.models import AuditEvent
from aurora_web.console.inbox import KEY
from aurora_web.registry.models import Target
from aurora_web.registry.services import change_settings
from aurora_web.rollouts import alerts, canaries, freeze, notifications, replicas, services, watching
from aurora_web.rollouts.approvals import waits_for_person
from aurora_web.rollouts.models import Alert, Channel, Delivery, Deployment, Silence
from aurora_web.rollouts.watching import WatchError

pytestmark = pytest.mark.django_db


@pytest.fixture
def receiver():
    """A web server that keeps what it gets; ``answers`` are its next status codes (204 after them)."""
    heard, answers = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append((dict(self.headers), body))
            self.send_response(answers.pop(0) if answers else 204)
            self.end_headers()

        def log_message(self, *args):
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    server.heard, server.answers = heard, answers
    server.url = f"http://127.0.0.1:{server.server_port}/hook"
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def queued(monkeypatch):
    """(delivery, countdown) of every task that would be enqueued."""
    found = []
    monkeypatch.setattr(notifications, "_enqueue", lambda delivery, seconds: found.append((delivery, seconds)))
    return found


@pytest.fixture
def hook(receiver):
    return watching.add_channel("on call", "webhook", receiver.url, "ada")


def break_capture(observed, **changes):
    replicas.observe(observed(capture_state="broken", capture_detail="why", **changes))


def test_an_alert_and_its_end_arrive_signed(
    target, observed, hook, receiver, django_capture_on_commit_callbacks, queued
):
    with django_capture_on_commit_callbacks(execute=True):
        break_capture(observed)
        break_capture(observed)  # still true: nobody is told twice
        replicas.observe(observed())
    assert [seconds for _, seconds in queued] == [0, 0]
    for delivery, _ in queued:
        notifications.attempt(delivery)
    bodies = [json.loads(body) for _, body in receiver.heard]
    assert [body["event"] for body in bodies] == ["alert.firing", "alert.resolved"]
    assert bodies[0]["text"] == "Capture broken: r1 serves, but keeps no traces: why."
    assert bodies[0]["url"].endswith("/targets/demo/#replicas")
    headers, body = receiver.heard[0]
    signed = headers["X-Aurora-Timestamp"].encode() + b"." + body
    expected = hmac.new(hook[1].encode(), signed, hashlib.sha256).hexdigest()
    assert headers["X-Aurora-Signature"] == f"v1={expected}"
    assert {d.state for d in Delivery.objects.all()} == {"delivered"}


def test_a_receiver_that_fails_is_tried_again_later_and_at_last_given_up(hook, receiver, queued):
    delivery = notifications.send(hook[0], "test", {"event": "test", "text": "t", "target": "", "url": ""})
    receiver.answers += [500] * 6
    for number, wait in enumerate([10, 60, 300, 1800, 7200]):
        Delivery.objects.update(due_at=timezone.now())
        queued.clear()
        notifications.attempt(delivery.pk)
        delivery.refresh_from_db()
        assert (delivery.state, delivery.num_attempts, delivery.answer) == ("waiting", number + 1, "HTTP 500")
        assert queued == [(delivery.pk, wait)]
        notifications.attempt(delivery.pk)  # a second message before it is due does nothing
    Delivery.objects.update(due_at=timezone.now())
    notifications.attempt(delivery.pk)
    delivery.refresh_from_db()
    assert (delivery.state, delivery.num_attempts, len(receiver.heard)) == ("failed", 6, 6)


def test_nobody_there_is_an_answer_too(queued):
    channel, _ = watching.add_channel("gone", "webhook", "http://127.0.0.1:1/x", "ada")
    delivery = watching.send_test(channel, "ada")
    notifications.attempt(delivery.pk)
    delivery.refresh_from_db()
    assert delivery.state == "waiting"
    assert "ConnectError" in delivery.answer


def test_the_key_in_an_address_is_not_in_the_audit_log():
    watching.add_channel("chat", "webhook", "https://hooks.example.org/T0/s3cret-key", "ada")
    event = AuditEvent.objects.get(action="channel.create")
    assert event.after == {"kind": "webhook", "address": "hooks.example.org/…"}


def test_a_message_that_the_broker_lost_is_sent_again(hook, queued):
    delivery = watching.send_test(hook[0], "ada")
    assert notifications.resend(timezone.now()) == 0
    Delivery.objects.update(due_at=timezone.now() - timedelta(minutes=1))
    assert (notifications.resend(timezone.now()), queued) == (1, [(delivery.pk, 0)])


def test_a_silence_keeps_quiet_but_the_alert_fires(target, observed, hook):
    watching.silence("olga", 1, "maintenance", target, "capture_broken")
    break_capture(observed)
    assert (Delivery.objects.count(), Alert.objects.get().state) == (0, "firing")
    break_capture(observed, replica="r2", state="swap_failed")
    assert {d.payload["rule"] for d in Delivery.objects.all()} == {"swap_failed"}


def test_what_goes_on_after_a_silence_is_told_then_and_once(target, observed, hook):
    row = watching.silence("olga", 1, "maintenance", target, "capture_broken")
    break_capture(observed)
    assert watching.end_silence(row, "olga")
    for _ in range(2):  # as beat does
        alerts.evaluate(target, timezone.now(), only_reports=True)
    assert [d.event for d in Delivery.objects.all()] == ["alert.firing"]
    replicas.observe(observed())
    assert sorted(d.event for d in Delivery.objects.all()) == ["alert.firing", "alert.resolved"]


def test_the_end_of_what_nobody_was_told_is_told_to_nobody(target, observed, hook):
    watching.silence("olga", 1, "maintenance", target, "capture_broken")
    break_capture(observed)
    Silence.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    replicas.observe(observed())
    assert not Delivery.objects.exists()


def test_a_silence_that_expired_or_is_of_another_target_covers_nothing(target, observed, hook):
    watching.silence("olga", 1, "maintenance", target)
    Silence.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    watching.silence("olga", 1, "other", None, "swap_failed")
    break_capture(observed)
    assert Delivery.objects.count() == 1


def test_e_mail(target, observed, settings, clients):
    _, secret = watching.add_channel("team", "email", "ada@example.org, bob@example.org", "ada")
    assert secret == ""
    break_capture(observed)
    delivery = Delivery.objects.get()
    notifications.attempt(delivery.pk)
    delivery.refresh_from_db()
    assert "AURORA_EMAIL_URL is empty" in delivery.answer
    page = "/alerts/channels/"
    assert "<code>AURORA_EMAIL_URL</code> is empty" in clients["admin"].get(page).content.decode()
    settings.EMAIL_URL = "smtp://localhost"
    assert "<code>AURORA_EMAIL_URL</code>" not in clients["admin"].get(page).content.decode()
    Delivery.objects.update(due_at=timezone.now())
    notifications.attempt(delivery.pk)
    [message] = mail.outbox
    assert message.subject.startswith("[Aurora demo] Capture broken")
    assert message.to == ["ada@example.org", "bob@example.org"]
    assert "/targets/demo/#replicas" in message.body


@pytest.mark.parametrize("between", ["\r", "\r\n", "\n", "\u2028"])
def test_the_subject_is_one_line_whatever_a_replica_says(target, observed, settings, between):
    settings.EMAIL_URL = "smtp://localhost"
    watching.add_channel("team", "email", "ada@example.org", "ada")
    replicas.observe(observed(capture_state="broken", capture_detail=f"disk{between}full"))
    notifications.attempt(Delivery.objects.get().pk)
    [message] = mail.outbox
    assert message.subject == "[Aurora demo] Capture broken: r1 serves, but keeps no traces: disk full."
    assert Delivery.objects.get().state == "delivered"


def test_a_transport_that_raises_is_an_answer_and_comes_to_an_end(hook, queued, monkeypatch):
    delivery = watching.send_test(hook[0], "ada")
    queued.clear()
    monkeypatch.setattr(notifications, "_post", lambda delivery: {}["odd"])
    for number in range(6):
        Delivery.objects.update(due_at=timezone.now())
        notifications.attempt(delivery.pk)
        delivery.refresh_from_db()
        assert (delivery.num_attempts, delivery.answer) == (number + 1, "KeyError: 'odd'")
    assert (delivery.state, len(queued)) == ("failed", 5)


@pytest.mark.parametrize("why", ["manual", "frozen", "held"])
def test_a_version_that_waits_is_told_with_the_page_that_decides(target, judged, report, hook, why):
    Target.objects.update(approval="manual" if why == "manual" else "automatic")
    judged()
    if why == "frozen":
        freeze.freeze(target, "olga")
    Deployment.objects.filter(target=target).update(is_held=why == "held")
    second = judged(report({"sql": (2.0, 1.0)}))
    [delivery] = Delivery.objects.filter(event="approval.waiting")
    assert delivery.payload["url"].endswith(f"/approvals/{second.pk}/")
    third = judged(report({"sql": (2.0, 1.0)}))
    assert Delivery.objects.filter(event="approval.waiting").count() == 1  # one mail, however many come to wait
    services.reject(second, "ada", "")
    services.reject(third, "ada", "")
    fourth = judged(report({"sql": (2.0, 1.0)}))
    newest = Delivery.objects.filter(event="approval.waiting").latest("pk")
    assert newest.payload["url"].endswith(f"/approvals/{fourth.pk}/")


def told():
    """Addresses of what people were told to decide on, oldest first."""
    return [d.payload["url"].split("/", 3)[3] for d in Delivery.objects.filter(event="approval.waiting").order_by("pk")]


def to_approve(browser):
    """What waits, as the only card and as the navigation say it: (on the card, in the navigation)."""
    cache.delete(KEY)
    page = browser.get("/").content.decode()
    card = re.search(r"(\d+) to approve", page)
    badges = re.findall(r'(\d+)<span class="hidden"> waiting', page)
    return card and card[1], sum(map(int, badges))


def hold(target, why):
    """What makes a person decide from now on: "manual", "frozen" or "rollback"; any other word changes nothing."""
    if why == "manual":
        change_settings(target, {"approval": "manual"}, "ada")
    if why == "frozen":
        freeze.freeze(target, "olga")
    if why == "rollback":
        services.rollback(target, "olga")


@pytest.mark.parametrize("why", ["policy", "manual", "frozen", "rollback"])
def test_card_and_navigation_count_what_the_rule_of_the_policy_says(target, judged, report, clients, why):
    judged()
    judged(report({"sql": (2.0, 1.0)}))
    hold(target, why)
    for waits in ((3.0, 2.0), (4.0, 2.0)):
        judged(report({"sql": waits}))
    target = Target.objects.get()
    assert waits_for_person(target, Deployment.objects.get()) is (why != "policy")
    assert to_approve(clients["viewer"]) == ((None, 0) if why == "policy" else ("2", 2))


@pytest.mark.parametrize("why", ["manual", "frozen", "rollback"])
def test_what_comes_to_wait_for_a_person_only_later_is_told_then(target, canary, judged, report, hook, why):
    waiting = judged(report({"sql": (4.0, 2.0)}))
    replicas.reconcile(timezone.now())
    assert told() == []  # it waits for its turn: the policy lets it in
    hold(target, why)
    if why != "rollback":
        canaries.abort(canary, "olga")
    replicas.reconcile(timezone.now())
    assert told() == [f"approvals/{waiting.pk}/"]
    later = judged(report({"sql": (5.0, 2.0)}))
    services.reject(waiting, "ada", "")
    replicas.reconcile(timezone.now())
    assert told() == [f"approvals/{waiting.pk}/"]  # one mail until all are decided on
    services.reject(later, "ada", "")
    newest = judged(report({"sql": (5.0, 2.0)}))
    assert told()[1:] == [f"approvals/{newest.pk}/"]


def test_a_good_canary_that_a_freeze_holds_back_is_told_once_and_on_its_card(target, canary, measured, hook, clients):
    measured(0.5, 0.6)
    freeze.freeze(target, "olga")
    assert to_approve(clients["viewer"]) == (None, 0)
    for _ in range(2):  # as beat does
        canaries.watch(target, timezone.now() + timedelta(minutes=6))
    assert told() == [f"approvals/{canary.pk}/"]
    assert "would go live, but demo is frozen" in Delivery.objects.get(event="approval.waiting").payload["text"]
    assert to_approve(clients["viewer"]) == ("1", 1)


@pytest.mark.parametrize(
    ("kind", "address", "named"),
    [
        ("webhook", "ftp://x", "address is 'ftp://x'"),
        ("webhook", "http://[", "expected a URL"),
        ("email", "ada@example.org,,", "address holds ''"),
        ("email", "ada@x\nBcc: eve@example.org", "address holds"),
        ("pigeon", "x", "kind is 'pigeon'"),
    ],
)
def test_wrong_channels_are_named(kind, address, named):
    with pytest.raises(WatchError) as caught:
        watching.add_channel("x", kind, address, "ada")
    assert named in str(caught.value)
    assert Channel.objects.count() == 0


def test_the_alerts_page_puts_what_fires_first_with_the_way_to_decide(clients, target, observed):
    assert "Nothing fires" in clients["viewer"].get("/alerts/").content.decode()
    break_capture(observed)
    page = clients["operator"].get("/alerts/").content.decode()
    assert page.index("r1 serves, but keeps no traces") < page.index('id="history"')
    assert 'href="/targets/demo/#replicas"' in page
    assert "rule=capture_broken&amp;replica=r1" in page
    assert "data-dialog" not in clients["viewer"].get("/alerts/").content.decode()
    assert "Nothing matches" in clients["viewer"].get("/alerts/?rule=disk_low").content.decode()


def test_silencing_from_the_page_and_ending_it(clients, target, observed):
    break_capture(observed)
    form = {"target": "demo", "rule": "capture_broken", "replica": "r1", "hours": "4", "reason": "known"}
    assert "known" in clients["operator"].post("/alerts/silences/new/", form, follow=True).content.decode()
    row = Silence.objects.get()
    assert row.created_by == "operator"
    assert AuditEvent.objects.get(action="alert.silence").reason == "known"
    part = clients["operator"].get("/alerts/silences/new/?rule=swap_failed", HTTP_HX_REQUEST="true").content.decode()
    assert "<html" not in part
    assert '<option value="swap_failed" selected>' in part
    assert clients["operator"].post("/alerts/silences/new/", form | {"reason": ""}).status_code == 422
    clients["operator"].post(f"/alerts/silences/{row.pk}/end/")
    row.refresh_from_db()
    assert (row.ended_by, row.expires_at <= timezone.now()) == ("operator", True)


def test_thresholds_on_the_page(clients, target):
    alerts.evaluate(target, timezone.now())
    page = clients["viewer"].get("/alerts/rules/?target=demo").content.decode()
    assert "No replica reports" in page
    assert 'name="threshold"' not in page
    form = {"rule": "spool_growing", "threshold": "500", "is_enabled": "on"}
    assert "saved" in clients["admin"].post("/alerts/rules/?target=demo", form, follow=True).content.decode()
    assert 'value="500"' in clients["admin"].get("/alerts/rules/?target=demo").content.decode()
    wrong = clients["admin"].post("/alerts/rules/?target=demo", form | {"threshold": "0"}, follow=True)
    assert "threshold is 0, expected 1 to" in wrong.content.decode()


def test_channels_on_the_page(clients, receiver, queued):
    admin = clients["admin"]
    assert "Nobody is told yet" in admin.get("/alerts/channels/").content.decode()
    form = {"name": "on call", "kind": "webhook", "address": receiver.url}
    page = admin.post("/alerts/channels/", form, follow=True).content.decode()
    secret = Channel.objects.get().secret
    assert secret in page
    assert secret not in admin.get("/alerts/channels/").content.decode()
    pk = Channel.objects.get().pk
    admin.post(f"/alerts/channels/{pk}/test/")
    notifications.attempt(Delivery.objects.get().pk)
    assert "HTTP 204" in admin.get("/alerts/channels/").content.decode()
    assert "already" in admin.post("/alerts/channels/", form).content.decode()
    admin.post(f"/alerts/channels/{pk}/remove/")
    assert Channel.objects.count() == 0


def test_alerting_by_the_api(client, bearer, target, observed, receiver):
    admin, operator = bearer("admin"), bearer("operator")
    json_body = {"content_type": "application/json"}
    break_capture(observed)
    page = client.get("/api/v1/alerts?state=firing&target=demo", **operator).json()
    assert (page["items"][0]["rule"], page["next"]) == ("capture_broken", None)
    rules = {r["rule"]: r for r in client.get("/api/v1/alerts/rules/demo", **operator).json()}
    assert rules["capture_broken"]["state"] == "firing"
    put = client.put("/api/v1/alerts/rules/console/disk_low", '{"threshold": 20}', **json_body, **admin)
    assert put.json() == {"rule": "disk_low", "threshold": 20.0, "is_enabled": True}
    assert client.put("/api/v1/alerts/rules/demo/nope", "{}", **json_body, **admin).status_code == 422
    body = '{"hours": 2, "reason": "deploy", "target": "demo"}'
    made = client.post("/api/v1/alerts/silences", body, **json_body, **operator).json()
    assert client.delete(f"/api/v1/alerts/silences/{made['id']}", **operator).json()["ended_by"].startswith("token:")
    assert client.delete(f"/api/v1/alerts/silences/{made['id']}", **operator).status_code == 409
    body = json.dumps({"name": "hook", "kind": "webhook", "address": receiver.url})
    channel = client.post("/api/v1/alerts/channels", body, **json_body, **admin).json()
    assert len(channel["secret"]) > 30
    assert "secret" not in client.get("/api/v1/alerts/channels", **admin).json()[0]
    assert client.post(f"/api/v1/alerts/channels/{channel['id']}/test", **admin).status_code == 202
    assert len(client.get(f"/api/v1/alerts/channels/{channel['id']}/deliveries", **admin).json()) == 1
    assert client.delete(f"/api/v1/alerts/channels/{channel['id']}", **admin).status_code == 204


def test_the_alerts_page_asks_few_questions(clients, checkpoint_dir, django_assert_max_num_queries):
    for i in range(50):
        target = Target.objects.create(
            slug=f"t{i}", name=f"t{i}", path="/x", architecture="x", num_layers=8, hidden_size=8, vocab_size=8,
            created_by="test",
        )  # fmt: skip
        Alert.objects.create(target=target, rule="swap_failed", state="firing", detail="d", since=timezone.now())
    with django_assert_max_num_queries(12):
        answer = clients["operator"].get("/alerts/")
    assert answer.content.decode().count("Silence…<span") == 50
