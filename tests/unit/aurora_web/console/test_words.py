"""Sentences of the audit log: every action that the code records has words of its own."""

import ast
from pathlib import Path

import pytest

import aurora_web
from aurora_web.accounts.services import record
from aurora_web.console.words import WORDS, what_was_done


def recorded_actions():
    """The actions that calls of ``record`` in the code name."""
    for path in Path(aurora_web.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "record" and len(node.args) > 1:
                yield from (each.value for each in ast.walk(node.args[1]) if isinstance(each, ast.Constant))


def test_every_recorded_action_has_words():
    found = set(recorded_actions())
    assert "version.promote" in found
    assert found <= WORDS.keys()


@pytest.mark.parametrize(
    ("action", "detail", "said"),
    [
        ("version.promote", {}, "put demo v12 live: better"),
        ("target.settings", {"new": {"min_gain": 1}}, "changed settings of demo v12 (min gain): better"),
        ("domain.pin", {"words": "lookahead 2"}, "pinned the domain demo v12: lookahead 2: better"),
        ("moon.landing", {}, "moon.landing demo v12: better"),
    ],
)
def test_what_was_done_names_subject_changes_and_reason(action, detail, said):
    assert what_was_done(action, "demo v12", "better", detail) == said


def test_a_subject_with_braces_stays_as_it_is():
    assert what_was_done("domain.rule", "regex {2} {words}", "", {}).endswith("regex {2} {words}")


@pytest.mark.django_db
def test_the_overview_tells_the_latest_in_sentences(clients, target):
    event = record("olga", "version.approve", "demo v3", target_slug="demo", reason="looks good")
    page = clients["viewer"].get("/").content.decode()
    assert "<strong>olga</strong> approved demo v3: looks good" in page
    assert f'href="/audit/{event.pk}/"' in page
