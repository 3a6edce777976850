"""The linear-time matcher against Python's own, and the patterns that it refuses."""

import random
import re
import time

import pytest

from speculators.domain_names import LETTERS
from speculators.patterns import MAX_EXAMPLES, Pattern, PatternError, examples

PATTERNS = [
    "abc", "a|b", "a*", "(ab)+", "a?b", "a{2}", "a{1,3}b", "a{2,}", "[a-c]+", "[^a]b", ".b.", r"\d+", r"\w\s?\w",
    "(a|b)*c", "(a*)*b", "(a|a)*", "((a|b)+c?)*", "^ab$", "a.c|b*", r"a\.b", "[]a]", "[a-]+", "(?:ab|c){2}", "()",
    "a||b",
    r"[\d_]+", r"\W", "(a?){3}a{3}", "[^]a]",
]  # fmt: skip


@pytest.mark.parametrize("text", PATTERNS)
def test_it_agrees_with_python_on_every_short_text(text):
    pattern, python = Pattern(text), re.compile(text, re.ASCII | re.DOTALL)
    rng = random.Random(1)
    tried = ["", *("".join(rng.choices("abc.]_- 1", k=rng.randint(1, 7))) for _ in range(400))]
    for value in tried:
        assert pattern.matches(value) == bool(python.fullmatch(value)), value


@pytest.mark.parametrize("text", ["(a+)+$", "(a|a)*b", "(a*)*(a*)*b", "(.*)*x", "((a?){50}){2}a{50}"])
def test_patterns_that_stop_other_matchers_take_no_time(text):
    pattern = Pattern(text)
    began = time.thread_time()
    pattern.matches("a" * 99 + "!")
    assert time.thread_time() - began < 1.0


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("a(b", 2, "without its )"), ("ab)", 3, "without its ("), ("x[ab", 2, "without its ]"),
        ("*a", 1, "nothing to repeat"),
        ("a{3", 2, "expected {m}"), ("a{3,1}", 2, "smaller number first"), (r"(a)\1", 4, "not possible"),
        ("(?=a)", 1, "look-around"), ("[z-a]", 2, "upside down"), ("a{1000}", 2, "0 to 100"), ("a^b", 2, "beginning"),
        ("a\\", 2, "not possible"), ("", 1, "1 to 200"), ("x" * 201, 1, "1 to 200"),
        ("((a{99}){99}){9}", 1, "too large"),
        ("(" * 30 + ")" * 30, 21, "inside each other"),
    ],
)  # fmt: skip
def test_a_bad_pattern_is_refused_with_its_position(text, position, message):
    with pytest.raises(PatternError, match=re.escape(message)) as caught:
        Pattern(text)
    assert caught.value.position == position


@pytest.mark.parametrize("text", [*PATTERNS, "(json|xml|y[a]?ml)_.*", "(a{0,100}){0,9}"])
def test_each_example_of_a_pattern_matches_it(text):
    found = examples(text, LETTERS)
    assert len(found) <= MAX_EXAMPLES
    assert all(Pattern(text).matches(each) and set(each) <= set(LETTERS) for each in found)


def test_every_alternative_that_can_be_written_has_an_example():
    found = examples("(json|xml|y[A-Za]?ml|Ä)_.*", LETTERS)
    assert found == ("xml_", "yml_", "json_", "yaml_", "yml_a")
    assert examples("[A-Z]+", LETTERS) == ()
