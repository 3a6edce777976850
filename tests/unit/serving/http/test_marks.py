"""What became of a stream's tokens, as text: exact also where tokens are parts of characters."""

from serving.http.marks import Marker
from serving.http.tokenizer import Detokeniser
from speculators.records import StepRecord


def marks_of(tokenizer, *steps):
    """Marks of the first token's text, then (proposed, num_correct, kept) of each step as text."""
    marker = Marker(Detokeniser(tokenizer))
    first, *rest = steps
    found = [marker.mark(tokenizer.encode(first), None)]
    for proposed, num_correct, kept in rest:
        found.append(marker.mark(kept, StepRecord(proposed, num_correct)))
    return found


def test_every_token_is_told_apart_and_the_texts_are_the_answer(tokenizer):
    encode = tokenizer.encode
    first, step, last = marks_of(tokenizer, "a", (encode("bcxy"), 2, encode("bcd")), (encode("e"), 1, encode("ef")))
    assert first.to_json() == {"step": 0, "first": ["a"]}
    assert step.to_json() == {
        "step": 1, "correct": ["b", "c"], "rejected": ["x"], "dropped": ["y"], "bonus": ["d"]
    }  # fmt: skip
    assert last.to_json() == {"step": 2, "correct": ["e"], "bonus": ["f"]}
    assert first.text + step.text + last.text == "abcdef"


def test_the_last_token_of_an_answer_may_be_a_draft(tokenizer):
    [_, step] = marks_of(tokenizer, "a", (tokenizer.encode("bcd"), 1, tokenizer.encode("bc")))
    assert step.to_json() == {"step": 1, "correct": ["b", "c"], "dropped": ["d"]}


def test_a_character_of_several_tokens_comes_with_its_last_one(tokenizer):
    start, middle, end = tokenizer.encode("€")
    marker = Marker(Detokeniser(tokenizer))
    found = [
        marker.mark((start,), None),
        marker.mark((middle,), StepRecord(tokenizer.encode("?"), 0)),
        marker.mark((end, *tokenizer.encode("!")), StepRecord((end, start), 1)),
    ]
    assert [marks.text for marks in found] == ["", "", "€!"]
    assert found[2].correct == ("€",)
    assert found[1].rejected == ("\N{REPLACEMENT CHARACTER}?",)  # what the answer would have been with it
    assert found[2].rejected == ("\N{REPLACEMENT CHARACTER}",)  # the beginning of a character that never came


def test_what_is_unfinished_at_the_end_is_told_once(tokenizer):
    detokeniser = Detokeniser(tokenizer)
    marker = Marker(detokeniser)
    assert marker.mark(tokenizer.encode("a") + tokenizer.encode("€")[:2], None).first == ("a", "", "")
    assert marker.unfinished(detokeniser.finish()).to_json() == {"step": 0, "unfinished": ["\N{REPLACEMENT CHARACTER}"]}


def test_looking_ahead_changes_nothing(tokenizer):
    detokeniser = Detokeniser(tokenizer)
    start, *rest = tokenizer.encode("€")
    detokeniser.push(start)
    assert detokeniser.ahead(tokenizer.encode("xyz"))[1:] == ["y", "z"]
    assert detokeniser.ahead(()) == []
    assert "".join(detokeniser.push(token) for token in rest) == "€"
