"""What is kept of answers, and for how long."""

from aurora_web.metrics import settled


def test_an_answer_is_asked_for_once_and_the_oldest_makes_room(monkeypatch):
    monkeypatch.setattr(settled, "MAX_KEPT_ROWS", 8)
    kept, asked = settled.Settled(), []

    def get(key, num_rows):
        return kept.get(key, lambda: asked.append(key) or [(key, i) for i in range(num_rows)])

    assert get("a", 2) == get("a", 2) == [("a", 0), ("a", 1)]
    get("b", 2)
    get("a", 2)  # now b is the oldest
    get("c", 3)
    get("a", 2)
    assert asked == ["a", "b", "c"]
    get("b", 2)
    assert asked == ["a", "b", "c", "b"]
    assert len(get("large", 9)) == 9, "more than fits is answered, and not kept"
    get("large", 9)
    assert asked[4:] == ["large", "large"]


def test_answers_without_rows_make_room_too(monkeypatch):
    """A console without traffic asks for another minute every minute."""
    monkeypatch.setattr(settled, "MAX_KEPT_ROWS", 8)
    kept, asked = settled.Settled(), []
    for minute in [*range(100), 99, 0]:
        kept.get(minute, lambda minute=minute: asked.append(minute) or [])
    assert asked == [*range(100), 0]


def test_of_many_keys_only_those_without_an_answer_are_asked_for():
    kept, asked = settled.Settled(), []

    def ask(missing):
        asked.append(missing)
        return {key: [(key, "row")] for key in missing if key != "empty"}

    assert kept.get_each("letters", ["a", "empty"], ask) == [[("a", "row")], []]
    assert kept.get_each("letters", ["b", "a", "empty"], ask) == [[("b", "row")], [("a", "row")], []]
    assert kept.get_each("others", ["a"], ask) == [[("a", "row")]]
    assert asked == [["a", "empty"], ["b"], ["a"]]
    kept.get_each("letters", ["a", "b"], ask)
    assert len(asked) == 3
