"""Prompts never repeat and keep their splits apart; what the pocket target is taught is right."""

import json
import re
import sqlite3
from itertools import islice

import pytest

from serving.traffic.domains.base import MAX_MESSAGE_CHARS, Seen, as_request, split_of
from serving.traffic.domains.registry import DOMAINS, POCKET, REAL, get_domain


def draw(name, num, seed=1, split="train"):
    return list(islice(get_domain(name).prompts(seed, split), num))


@pytest.mark.parametrize("name", DOMAINS)
def test_a_seed_fixes_the_prompts_and_none_comes_twice(name):
    first = [p.message for p in draw(name, 400)]
    assert first == [p.message for p in draw(name, 400)]
    assert len(set(first) & {p.message for p in draw(name, 400, seed=2)}) < 10
    many = [p.message for p in draw(name, 1200, seed=3)]
    assert len(set(many)) == 1200


@pytest.mark.parametrize("name", DOMAINS)
def test_a_source_is_in_one_split_in_all_its_wordings(name):
    held_out = draw(name, 150, split="heldout")
    assert {split_of(p.source) for p in held_out} == {"heldout"}
    for seed in range(3):
        assert {split_of(p.source) for p in draw(name, 500, seed)} == {"train"}


@pytest.mark.parametrize("name", REAL)
def test_a_real_prompt_is_a_message_of_limited_length(name):
    for prompt in draw(name, 500):
        assert prompt.text == prompt.message
        assert 15 < len(prompt.message) <= MAX_MESSAGE_CHARS
        assert prompt.message == prompt.message.strip()
        if name != "write_code":  # which quotes parts of its source
            assert not re.search(r"\{[dknqxy]?\}", prompt.message.replace(prompt.source, ""))


@pytest.mark.parametrize("name", POCKET)
def test_the_pocket_target_reads_the_message_in_its_own_words(name):
    for prompt in draw(name, 50):
        assert prompt.text == as_request(prompt.message)
        assert prompt.reference


def test_what_was_seen_is_known_again():
    seen = Seen()
    assert [seen.is_new(text) for text in ("b", "a", "c", "a", "b", "d", "c")] == [True] * 3 + [False] * 2 + [
        True,
        False,
    ]


def test_arithmetic_is_right():
    for prompt in draw("arithmetic", 500):
        lines = prompt.reference.strip().splitlines()
        results = []
        for line in lines[:-1]:
            left, _, right = line.rpartition(": ")[2].partition(" = ")
            assert re.fullmatch(r"[\d\s+*/()-]+", left), line
            assert eval(left) == int(right), line  # only digits and operators, see above
            results.append(right)
        assert lines[-1] == f"Answer: {results[-1]}"


def test_sql_runs_on_the_schema_of_its_prompt():
    for prompt in draw("sql", 400):
        database = sqlite3.connect(":memory:")
        for table in re.findall(r"^(\w+\(id .*\))$", prompt.text, re.M):
            database.execute(f"CREATE TABLE {table}")
        query = re.search(r"```sql\n(.*)\n```", prompt.reference)[1]
        database.execute(query)


def test_json_calls_follow_the_tools_of_the_prompt():
    kinds = {"string": str, "number": float, "integer": int, "boolean": bool, "array": list}
    for prompt in draw("json_tools", 400):
        tools = dict(re.findall(r"^- (\w+)\((.*)\)$", prompt.text, re.M))
        for call in json.loads(prompt.reference):
            wanted = dict(part.split(": ") for part in tools[call["name"]].split(", "))
            assert call["arguments"].keys() == wanted.keys()
            for name, value in call["arguments"].items():
                assert isinstance(value, kinds[wanted[name]]), (name, value)


def test_an_unknown_domain_is_named():
    with pytest.raises(ValueError, match="poetry"):
        get_domain("poetry")
