"""The demo's prompts never repeat, keep their splits apart, and their worked answers are right."""

import json
import re
import sqlite3
from itertools import islice

import pytest

from serving.traffic.domains.registry import DOMAINS, get_domain

GENERATED = ("arithmetic", "sql", "json_tools")
REAL = ("python_code", "prose")


def draw(name, num, seed=1, split="train"):
    return list(islice(get_domain(name).prompts(seed, split), num))


def test_two_domains_are_real_text():
    assert set(DOMAINS) == {*GENERATED, *REAL}


@pytest.mark.parametrize("name", DOMAINS)
def test_a_seed_fixes_the_prompts_and_none_comes_twice(name):
    first = [p.text for p in draw(name, 400)]
    assert first == [p.text for p in draw(name, 400)]
    assert first != [p.text for p in draw(name, 400, seed=2)]
    assert len(set(first)) == len(first) > 100


@pytest.mark.parametrize("name", DOMAINS)
def test_held_out_prompts_are_never_trained_on(name):
    held_out = {p.text for p in draw(name, 150, split="heldout")}
    assert len(held_out) > 20
    for seed in range(3):
        assert held_out.isdisjoint(p.text for p in draw(name, 500, seed))


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
