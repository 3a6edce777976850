"""Prompts from texts that the machine has: code that parses, schemas that SQLite takes, JSON that fits its record."""

import ast
import json
import random
import re
import sqlite3
from itertools import islice

import pytest

from serving.traffic.domains import machine_texts
from serving.traffic.domains.machine_texts import Module
from serving.traffic.domains.records import KINDS
from serving.traffic.domains.registry import get_domain
from serving.traffic.domains.schemas import as_columns, as_listing, as_statements, draw_schema
from serving.traffic.domains.sql_schema import ask


def draw(name, num, seed=1):
    return list(islice(get_domain(name).prompts(seed), num))


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library of two modules, one of which cannot be parsed."""
    (tmp_path / "good.py").write_text(
        '''"""Tools that this test has, and no other part of the world needs them.

They are described here at some length, because a passage must not be too short to be worth asking about it.
"""


class Shelf:
    @property
    def first(self):
        """Return what was put in first."""
        if not self.items:
            raise IndexError("nothing is there")
        return self.items[0]


def tiny():
    return 1


def double(value,
           factor=2):
    if value is None:
        return 0
    value = value * factor
    return value
'''
    )
    (tmp_path / "broken.py").write_text("def broken(:\n")
    found = tuple(Module(name, tmp_path / f"{name}.py") for name in ("good", "broken", "gone"))
    monkeypatch.setattr(machine_texts, "modules", lambda: found)
    monkeypatch.setattr(machine_texts, "topics", lambda: {})


def both(read):
    return [text for split in ("train", "heldout") for text in first_pass(read, split)]


def first_pass(read, split):
    """What comes before the first repetition; nothing where a split is empty."""
    seen = {}
    try:
        for text in read(random.Random(0), split):
            if text in seen:
                break
            seen[text] = None
    except ValueError as error:
        assert "no text to make prompts from" in str(error)
    return list(seen)


def test_functions_are_read_with_their_head_and_documentation(library):
    found = {function.name: function for function in both(machine_texts.functions)}
    assert found.keys() == {"first", "double"}  # what is trivial, or cannot be parsed, is left out
    assert found["first"].docstring == "Return what was put in first."
    assert found["first"].source.startswith('def first(self):\n    """Return')
    assert found["double"].signature == "def double(value,\n           factor=2):"
    assert found["double"].body_lines[0] == "    if value is None:"


def test_passages_are_paragraphs_of_running_english(library):
    [passage] = both(machine_texts.passages)
    assert passage.subject == "good"
    assert passage.text.startswith("Tools that this test has") and passage.text.endswith("asking about it.")
    assert "\n\nThey are described here at some length" in passage.text


def test_all_of_the_library_comes_before_any_comes_again():
    some = {module for module in machine_texts.modules() if module.name in ("textwrap", "shlex", "bisect", "fnmatch")}
    texts = machine_texts._mixed(random.Random(1), sorted(some, key=str), machine_texts.functions_of)
    size = sum(len(machine_texts.functions_of(module)) for module in some)
    first, second = list(islice(texts, size)), list(islice(texts, size))
    assert set(first) == set(second) and first != second


@pytest.mark.parametrize("name", ["explain_code", "write_code"])
def test_code_in_prompts_is_python(name):
    num_whole = 0
    for prompt in draw(name, 300):
        [code] = re.findall(r"```python\n(.*?)\n```(?:\n\n|$)", prompt.message, re.S)
        ast.parse(prompt.source)
        if code == prompt.source:
            num_whole += 1
        else:
            assert name == "write_code"
            assert code.splitlines()[0] == prompt.source.splitlines()[0]
            assert prompt.reference == prompt.source  # the right answer
    assert num_whole > 50


def test_a_function_to_write_is_given_without_its_body():
    heads = [p for p in draw("write_code", 600) if re.search(r"Write this Python function\.", p.message)]
    assert heads
    for prompt in heads:
        [code] = re.findall(r"```python\n(.*?)\n```", prompt.message, re.S)
        [function] = ast.parse(code).body
        assert len(function.body) == 1 and ast.get_docstring(function)


def test_schemas_and_queries_run():
    rng = random.Random(4)
    for _ in range(1500):
        tables = draw_schema(rng)
        database = sqlite3.connect(":memory:")
        database.executescript(as_statements(tables))
        wanted, query = ask(rng, tables)
        database.execute(query)
        assert any(name in wanted for name in tables)
        database.close()


def test_every_form_of_a_schema_has_every_column():
    rng = random.Random(5)
    for _ in range(100):
        tables = draw_schema(rng)
        names = {column for table in tables.values() for column, _ in table.columns()} | tables.keys()
        for form in (as_statements, as_listing, as_columns):
            assert names <= set(re.findall(r"\w+", form(tables)))


def test_queries_in_prompts_run_on_the_schema_above_them():
    prompts = [p for p in draw("sql_schema", 600) if "```sql" in p.message and p.message.startswith("CREATE TABLE")]
    assert len(prompts) > 20
    for prompt in prompts:
        database = sqlite3.connect(":memory:")
        database.executescript(prompt.source)
        database.execute(re.search(r"```sql\n(.*);\n```", prompt.message)[1])
        database.close()


@pytest.mark.parametrize("kind", dict.fromkeys(KINDS), ids=lambda kind: kind.__name__)
def test_what_a_record_holds_can_be_read_off_its_text(kind):
    rng = random.Random(6)
    for _ in range(200):
        record = kind(rng)
        assert len(record.fields) >= 5
        for value in record.fields.values():
            for part in value if isinstance(value, list) else [value]:
                assert str(part) in record.text


def test_the_right_json_has_the_keys_that_were_asked_for():
    checked = 0
    for prompt in draw("extract_json", 400):
        if not prompt.reference:
            continue
        answer = json.loads(prompt.reference)
        request = prompt.message.replace(prompt.source, "")
        for each in answer if isinstance(answer, list) else [answer]:
            assert len(each) >= 3
            assert all(re.search(rf"\b{key}\b", request) for key in each)
        checked += 1
    assert checked > 200


def test_questions_are_about_many_subjects():
    assert len({p.source for p in draw("chat", 3000)}) > 500


def test_what_is_kept_of_the_machines_texts_is_small():
    functions = [f for module in machine_texts.modules() for f in machine_texts.functions_of(module)]
    passages = [
        p for unit in [*machine_texts.modules(), *machine_texts.topics()] for p in machine_texts.passages_of(unit)
    ]
    assert len(functions) > 1000 and len(passages) > 500
    num_chars = sum(len(f.source) + len(f.docstring) for f in functions) + sum(len(p.text) for p in passages)
    assert num_chars < 10_000_000
