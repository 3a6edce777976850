"""Domain `sql_schema`: questions and tasks over the schema of a database, drawn anew for every prompt."""

import random
from collections.abc import Callable, Iterator

from serving.traffic.domains.base import Draft, RealDomain, Split, split_of
from serving.traffic.domains.schemas import Table, as_columns, as_listing, as_statements, draw_schema, draw_value
from serving.traffic.domains.wording import around, sentences

Asked = tuple[str, str]  # what is wanted in English, and the query
AGGREGATES = {"AVG": "average", "SUM": "sum of", "MAX": "highest", "MIN": "lowest"}
COMPARISONS = {">": "above", "<": "below", ">=": "of at least", "<=": "of at most"}
DIALECTS = ("SQLite", "PostgreSQL", "MySQL", "MariaDB")
WRITE = (
    "Write a {d} query for this: {q}.",
    "Write one SQL statement for {d}. Task: {q}.",
    "I use {d}. How do I {q}?",
    "Using the tables below and {d}, {q}.",
    "You are a database engineer. In {d}, {q}.",
    "Which {d} query would {q}?",
)
QUERY_ONLY = "Answer with the query only."
STYLES = (
    "Explain the query in one sentence.",
    "Explain each clause of the query.",
    "Name the indexes that would help.",
    "Use short aliases for the tables.",
    "Put each clause on a line of its own.",
    "Add a comment above the query.",
    "Say which columns the result has.",
    "Show two rows that the result could have.",
)
ABOUT = (
    "Explain in plain words what this query returns.",
    "Rewrite this query with a common table expression.",
    "Explain this query to somebody who has never used SQL.",
    "Which index would make this query faster? Write the statement.",
    "Turn this query into a view.",
    "Write a test for this query: rows to insert, and the result to expect.",
    "Give the columns of this query's result better names.",
    "Add a limit of ten rows and a stable order to this query.",
)
OF_SCHEMAS = (
    "Write INSERT statements for {n} rows of sample data in each table.",
    "Describe this schema in plain words.",
    "Suggest {n} useful indexes for this schema and write the statements.",
    "List {n} questions that this schema can answer, with the query for each.",
    "Which {n} constraints would you add to this schema? Write them.",
    "Add a table for an audit log to this schema.",
    "Write Python dataclasses for this schema.",
    "Write this schema as a JSON document with tables and columns.",
)


def _filter(rng: random.Random, table: Table) -> Asked:
    """(English, condition)"""
    kind = rng.random()
    if kind < 0.4:
        column = rng.choice(table.texts)
        value = draw_value(rng, column)
        return f"whose {column} is '{value}'", f"{table.name}.{column} = '{value}'"
    if kind < 0.6 and table.dates:
        column, year, month = rng.choice(table.dates), rng.randint(2015, 2026), rng.randint(1, 12)
        sign, word = rng.choice(((">=", "since"), ("<", "before")))
        return f"with {column} {word} {year}-{month:02d}-01", f"{table.name}.{column} {sign} '{year}-{month:02d}-01'"
    column, low, high = rng.choice(table.numbers)
    number, sign = rng.randint(low, high), rng.choice(list(COMPARISONS))
    return f"with {column} {COMPARISONS[sign]} {number}", f"{table.name}.{column} {sign} {number}"


def list_rows(rng: random.Random, table: Table) -> Asked:
    (said, condition), shown = _filter(rng, table), rng.choice(table.texts)
    order, (way, word) = rng.choice(table.numbers)[0], rng.choice((("DESC", "highest"), ("ASC", "lowest")))
    limit = rng.randint(3, 60)
    wanted = f"list {shown} and {order} of the {limit} {table.name} {said} that have the {word} {order}"
    query = f"SELECT {shown}, {order} FROM {table.name} WHERE {condition} ORDER BY {order} {way} LIMIT {limit}"
    return wanted, query


def count_rows(rng: random.Random, table: Table) -> Asked:
    (first, one), (second, two) = _filter(rng, table), _filter(rng, table)
    return f"count the {table.name} {first} and {second}", f"SELECT COUNT(*) FROM {table.name} WHERE {one} AND {two}"


def group_rows(rng: random.Random, table: Table) -> Asked:
    key, column, function = rng.choice(table.texts), rng.choice(table.numbers)[0], rng.choice(list(AGGREGATES))
    said, condition = _filter(rng, table)
    wanted = f"show the {AGGREGATES[function]} {column} for each {key} of the {table.name} {said}"
    query = f"SELECT {key}, {function}({column}) FROM {table.name} WHERE {condition} GROUP BY {key}"
    if rng.random() < 0.5:
        least = rng.randint(2, 90)
        return f"{wanted}, only where there are more than {least} rows", f"{query} HAVING COUNT(*) > {least}"
    return wanted, query


def above_average(rng: random.Random, table: Table) -> Asked:
    (said, condition), column = _filter(rng, table), rng.choice(table.numbers)[0]
    wanted = f"find the {table.name} {said} whose {column} is above the average of all {table.name}"
    inner = f"SELECT AVG({column}) FROM {table.name}"
    return wanted, f"SELECT * FROM {table.name} WHERE {condition} AND {column} > ({inner})"


def change_rows(rng: random.Random, table: Table) -> Asked:
    said, condition = _filter(rng, table)
    if rng.random() < 0.3:
        return f"delete the {table.name} {said}", f"DELETE FROM {table.name} WHERE {condition}"
    column, percent = rng.choice(table.numbers)[0], rng.randint(2, 60)
    wanted = f"raise {column} of the {table.name} {said} by {percent} percent"
    return wanted, f"UPDATE {table.name} SET {column} = {column} * {1 + percent / 100:.2f} WHERE {condition}"


def rows_per_month(rng: random.Random, table: Table) -> Asked:
    if not table.dates:
        return count_rows(rng, table)
    date, (said, condition) = rng.choice(table.dates), _filter(rng, table)
    wanted = f"count the {table.name} {said} for each month of {date}"
    month = f"substr({date}, 1, 7)"
    return wanted, f"SELECT {month}, COUNT(*) FROM {table.name} WHERE {condition} GROUP BY {month}"


def joined_sum(rng: random.Random, parent: Table, child: Table) -> Asked:
    key, column, (said, condition) = rng.choice(parent.texts), rng.choice(child.numbers)[0], _filter(rng, child)
    function = rng.choice(list(AGGREGATES))
    wanted = f"show the {AGGREGATES[function]} {column} of {child.name} {said} for each {key} of {parent.name}"
    on = f"{parent.name}.id = {child.name}.{parent.one}_id"
    shown = f"{parent.name}.{key}, {function}({child.name}.{column})"
    query = f"SELECT {shown} FROM {parent.name} JOIN {child.name} ON {on}"
    return wanted, f"{query} WHERE {condition} GROUP BY {parent.name}.{key}"


def without_rows(rng: random.Random, parent: Table, child: Table) -> Asked:
    said, condition = _filter(rng, parent)
    inner = f"SELECT 1 FROM {child.name} WHERE {child.name}.{parent.one}_id = {parent.name}.id"
    wanted = f"find the {parent.name} {said} that have no {child.name}"
    return wanted, f"SELECT * FROM {parent.name} WHERE {condition} AND NOT EXISTS ({inner})"


def most_rows(rng: random.Random, parent: Table, child: Table) -> Asked:
    (said, condition), num, shown = _filter(rng, child), rng.randint(2, 40), rng.choice(parent.texts)
    wanted = f"show {shown} of the {num} {parent.name} with the most {child.name} {said}"
    on = f"{parent.name}.id = {child.name}.{parent.one}_id"
    query = f"SELECT {parent.name}.{shown}, COUNT(*) FROM {parent.name} JOIN {child.name} ON {on} WHERE {condition}"
    return wanted, f"{query} GROUP BY {parent.name}.id, {parent.name}.{shown} ORDER BY COUNT(*) DESC LIMIT {num}"


OF_ONE: tuple[Callable[[random.Random, Table], Asked], ...] = (
    list_rows, count_rows, group_rows, above_average, change_rows, rows_per_month,
)  # fmt: skip
OF_TWO = (joined_sum, without_rows, most_rows)


def ask(rng: random.Random, tables: dict[str, Table]) -> Asked:
    """A question that these tables can answer."""
    pairs = [(tables[parent], child) for child in tables.values() for parent in child.keys(tables).values()]
    if pairs and rng.random() < 0.6:
        return rng.choice(OF_TWO)(rng, *rng.choice(pairs))
    return rng.choice(OF_ONE)(rng, rng.choice(list(tables.values())))


class SqlSchema(RealDomain):
    """Answers are SQL, or prose about it."""

    name = "sql_schema"

    def drafts(self, rng: random.Random, split: Split) -> Iterator[Draft]:
        while True:
            tables = draw_schema(rng)
            source = as_statements(tables)
            if split_of(source) == split:
                yield self._draft(rng, tables, source)

    def _draft(self, rng: random.Random, tables: dict[str, Table], source: str) -> Draft:
        schema = rng.choice((source, source, as_listing(tables), as_columns(tables)))
        wanted, query = ask(rng, tables)
        kind = rng.random()
        if kind < 0.7:
            dialect = rng.choice(DIALECTS)
            task = rng.choice(WRITE).format(d=dialect, q=wanted)
            wishes = [QUERY_ONLY] if rng.random() < 0.4 else rng.sample(STYLES, rng.randint(0, 2))
            request = sentences(task, *wishes)
            return Draft(source, around(rng, request, schema), query)
        if kind < 0.85:
            return Draft(source, f"{schema}\n\n{rng.choice(ABOUT)}\n\n```sql\n{query};\n```")
        task = rng.choice(OF_SCHEMAS).format(n=rng.randint(2, 6))
        return Draft(source, around(rng, sentences(task, f"The database is {rng.choice(DIALECTS)}."), schema))
