"""The playground with a real engine: tokens with their marks, both speeds, stopping, and what a viewer sees."""

import re

import pytest
from playwright.sync_api import expect

from serving.traffic.domains.registry import POCKET
from tests.bench.ring import wait_for
from tests.browser.accessibility import violations
from tests.browser.steered import SLUG
from tests.unit.aurora_web.console.fake_replica import FakeReplica

PATH = "/targets/pocket/playground/"
PROMPT = next(POCKET["sql"].prompts(11, "heldout")).text  # what the target goes on with for longer than 32 tokens


@pytest.fixture(scope="module")
def address(traced, base):
    """The page with a domain for which the engine always proposes two drafts."""
    traced.put("/targets/pocket/domains/played/pin", {"lookahead": 2})
    wait_for("the pin", lambda: traced.get("/targets/pocket/domains/played/pin")["obeying"], 60)
    wait_for("a version at work", lambda: traced.rows("SELECT 1 FROM rollouts_replica WHERE version > 0"), 60)
    return f"{base}{PATH}?domain=played&kind=completion&max_tokens=64"


def test_a_prompt_is_decoded_both_ways(operator, address):
    page = operator
    page.goto(address)
    page.get_by_label("Prompt").fill(PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Done.")).to_be_visible()
    left, right = (page.get_by_role("region", name=f"Text with{word} speculation") for word in ("", "out"))
    assert left.locator(".run.first").count() == 1
    assert left.locator(".run.correct, .run.rejected").count() > 0
    kept = left.locator(".run:is(.first, .correct, .bonus, .unfinished) .t").all_text_contents()
    text = "".join(kept).replace("↵\n", "\n").replace("⇥\t", "\t").replace("∅", "")
    assert text == right.text_content()
    expect(page.get_by_text("× as fast with speculation, in this one request.")).to_be_visible()
    expect(page.get_by_text("Both texts are the same.")).to_be_visible()
    for side in ("speculative", "control"):
        expect(page.locator(f"#{side} [data-figure=speed]")).to_have_text(re.compile(r"^[\d,]+\.\d$"))
        expect(page.locator(f"#{side} [data-figure=measured]")).to_have_text("of the engine's own steps")
    expect(page.locator("#speculative [data-figure=drafts]")).to_contain_text("drafts correct")
    expect(page.locator("#control [data-figure=drafts]")).to_contain_text("no drafts")
    for theme in ("dark", "light"):
        assert violations(page, page.url, theme) == []


def test_what_was_not_kept_can_be_hidden_and_settings_stay_in_the_address(operator, address):
    page = operator
    page.goto(address)
    page.get_by_label("Prompt").fill("SELECT")
    page.get_by_label("Most tokens").fill("40")
    page.get_by_label("Prompt").press("Control+Enter")
    expect(page.get_by_text("Done.")).to_be_visible()
    box = page.get_by_label("Show what was proposed and not kept")
    rejected = page.locator("#speculative .run.rejected").first
    expect(rejected).to_be_visible()
    box.uncheck()
    expect(rejected).to_be_hidden()
    box.check()
    assert "max_tokens=40" in page.url
    assert "prompt" not in page.url
    page.reload()
    expect(page.get_by_label("Most tokens")).to_have_value("40")


def test_what_is_wrong_is_said_at_its_field(operator, address):
    page = operator
    page.goto(address)
    page.get_by_label("Prompt").fill("SELECT")
    page.get_by_label("Domain").fill("No Domain")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_have_text("Expected 1 to 64 of a-z, 0-9, _ . -")
    expect(page.get_by_label("Domain")).to_be_focused()
    assert violations(page, page.url, "light") == []


@pytest.fixture
def slow(steered):
    """A replica of the target ``steered`` that calls itself SGLang and never ends an answer by itself."""
    replica = FakeReplica()
    replica.is_endless, replica.pause_seconds, replica.has_marks = True, 0.05, False
    replica.facts[False] = None
    server = steered.servers[0]
    server.say(url=replica.url)
    wait_for(
        "its address", lambda: replica.url in [r["url"] for r in steered.ring.get(f"/targets/{SLUG}/replicas")], 60
    )
    yield replica
    server.say()
    replica.stop()


def test_stopping_ends_the_request_on_the_replica(slow, steered, operator, base):
    page = operator
    page.goto(f"{base}/targets/{SLUG}/playground/?replica={steered.servers[0].name}")
    expect(page.get_by_text("SGLang decodes a batch as a whole").first).to_be_visible()
    page.get_by_label("Prompt").fill("SELECT")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("region", name="Text with speculation")).to_contain_text("more")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped.")).to_be_visible()
    wait_for("a client that has gone", lambda: slow.num_left == 1, 60)
    expect(page.get_by_role("button", name="Send")).to_be_focused()
    slow.is_endless = False
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("Done.")).to_be_visible()
    expect(page.get_by_role("region", name="Text with speculation")).to_have_text("abcdef")
    expect(page.locator("#speculative [data-figure=measured]")).to_have_text("as it arrived here, network included")
    expect(page.locator("#notes")).to_contain_text("neither be kept from speculation nor tell its steps")


def test_a_viewer_reads_what_it_is(viewer, address):
    viewer.goto(address)
    expect(viewer.get_by_role("heading", name="Sending is for operators")).to_be_visible()
    expect(viewer.get_by_label("Prompt")).to_have_count(0)
    for theme in ("dark", "light"):
        assert violations(viewer, viewer.url, theme) == []
