"""Domain `sql`: a question about a made-up schema, answered by one SQLite query and a sentence about it."""

import random
from dataclasses import dataclass

from serving.traffic.domains.base import GeneratedDomain
from serving.traffic.domains.vocabulary import CATEGORIES, COLOURS, PEOPLE, PLACES, STATUSES

TABLES = (
    "customers orders products invoices payments employees departments students courses teachers books authors "
    "loans members flights hotels bookings rooms guests patients doctors visits drivers trips vehicles repairs "
    "suppliers shipments warehouses tickets events venues artists albums songs players teams matches recipes "
    "branches accounts transfers messages projects tasks sensors readings devices stores sales reviews offers"
).split()

TEXT_COLUMNS: dict[str, tuple[str, ...]] = {
    "name": tuple(PEOPLE),
    "owner": tuple(PEOPLE),
    "manager": tuple(PEOPLE),
    "contact": tuple(PEOPLE),
    "city": tuple(PLACES),
    "region": ("north", "south", "east", "west", "central"),
    "origin": tuple(PLACES),
    "status": tuple(STATUSES),
    "category": tuple(CATEGORIES),
    "colour": tuple(COLOURS),
    "level": ("junior", "senior", "lead", "basic", "gold", "silver"),
}
NUMBER_COLUMNS: dict[str, tuple[str, int, int]] = {
    "price": ("REAL", 5, 500),
    "amount": ("REAL", 10, 5000),
    "total": ("REAL", 10, 9000),
    "rating": ("REAL", 1, 5),
    "quantity": ("INTEGER", 1, 200),
    "age": ("INTEGER", 18, 80),
    "year": ("INTEGER", 1980, 2026),
    "score": ("INTEGER", 1, 100),
    "weight": ("REAL", 1, 300),
    "duration": ("INTEGER", 5, 600),
    "salary": ("INTEGER", 1000, 9000),
    "distance": ("REAL", 1, 900),
    "stock": ("INTEGER", 0, 500),
    "discount": ("REAL", 1, 60),
}
AGGREGATES = {
    "AVG": ("average", "mean"),
    "SUM": ("total", "sum of the"),
    "MAX": ("highest", "largest", "maximum"),
    "MIN": ("lowest", "smallest", "minimum"),
}
COMPARISONS = {
    ">": ("above", "greater than", "over", "more than"),
    "<": ("below", "less than", "under"),
    ">=": ("at least", "not less than"),
    "<=": ("at most", "no more than"),
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a made-up schema: text columns, number columns, and perhaps a reference to another table."""

    name: str
    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    parent: str = ""

    @property
    def foreign_key(self) -> str:
        return f"{self.parent.removesuffix('s')}_id"

    def definition(self) -> str:
        """The table as `CREATE TABLE` would name it, without those words."""
        columns = ["id INTEGER"] + [f"{column} TEXT" for column in self.texts]
        columns += [f"{column} {NUMBER_COLUMNS[column][0]}" for column in self.numbers]
        if self.parent:
            columns.append(f"{self.foreign_key} INTEGER")
        return f"{self.name}({', '.join(columns)})"


def make_table(rng: random.Random, name: str, parent: str = "") -> Table:
    """Draw a table with two or three text columns and two or three number columns."""
    texts = rng.sample(list(TEXT_COLUMNS), rng.randint(2, 3))
    return Table(name, tuple(texts), tuple(rng.sample(list(NUMBER_COLUMNS), rng.randint(2, 3))), parent)


def condition(rng: random.Random, table: Table, prefix: str = "") -> tuple[str, str]:
    """Draw one filter; returns (SQL, English)."""
    if rng.random() < 0.5:
        column = rng.choice(table.texts)
        value = rng.choice(TEXT_COLUMNS[column])
        words = rng.choice(("whose {c} is {v}", "with {c} {v}", "where the {c} is {v}", "that have {v} as {c}"))
        return f"{prefix}{column} = '{value}'", words.format(c=column, v=value)
    column = rng.choice(table.numbers)
    _, low, high = NUMBER_COLUMNS[column]
    number = rng.randint(low, high)
    if rng.random() < 0.2:
        top = number + rng.randint(1, max(2, high - low))
        return f"{prefix}{column} BETWEEN {number} AND {top}", f"with {column} between {number} and {top}"
    sign = rng.choice(list(COMPARISONS))
    return f"{prefix}{column} {sign} {number}", f"with {column} {rng.choice(COMPARISONS[sign])} {number}"


def where(rng: random.Random, table: Table, prefix: str = "") -> tuple[str, str]:
    """Draw one or two filters joined by AND or OR; returns (SQL, English)."""
    first, said = condition(rng, table, prefix)
    if rng.random() < 0.6:
        return first, said
    second, also = condition(rng, table, prefix)
    word = rng.choice(("AND", "AND", "OR"))
    return f"{first} {word} {second}", f"{said} {word.lower()} {also}"


def select_rows(rng: random.Random, table: Table) -> tuple[str, str, str]:
    columns = rng.sample(table.texts + table.numbers, rng.randint(1, 3))
    clause, said = where(rng, table)
    order = rng.choice(table.numbers)
    verb = rng.choice(("List", "Show", "Find", "Give me", "Return", "Get"))
    text = f"{verb} the {' and '.join(columns)} of {table.name} {said}"
    query = f"SELECT {', '.join(columns)} FROM {table.name} WHERE {clause}"
    note = f"It keeps the {table.name} {said} and returns {len(columns)} column{'s' * (len(columns) > 1)}."
    if rng.random() < 0.5:
        way, words = rng.choice((("DESC", "highest"), ("ASC", "lowest")))
        limit = rng.randint(2, 50)
        text += f", {words} {order} first, only {limit} of them"
        query += f" ORDER BY {order} {way} LIMIT {limit}"
        note += f" The {words} {order} comes first and at most {limit} rows are returned."
    return text + ".", query, note


def count_rows(rng: random.Random, table: Table) -> tuple[str, str, str]:
    clause, said = where(rng, table)
    text = rng.choice(("How many {t} are there {s}?", "Count the {t} {s}.", "What is the number of {t} {s}?"))
    query = f"SELECT COUNT(*) FROM {table.name} WHERE {clause}"
    return text.format(t=table.name, s=said), query, f"It counts the {table.name} {said}."


def aggregate(rng: random.Random, table: Table) -> tuple[str, str, str]:
    function, column = rng.choice(list(AGGREGATES)), rng.choice(table.numbers)
    word = rng.choice(AGGREGATES[function])
    clause, said = where(rng, table)
    text = rng.choice(("What is the {w} {c} of {t} {s}?", "Compute the {w} {c} of the {t} {s}."))
    query = f"SELECT {function}({column}) FROM {table.name} WHERE {clause}"
    note = f"{function} gives the {word} {column} over the {table.name} {said}."
    return text.format(w=word, c=column, t=table.name, s=said), query, note


def group_rows(rng: random.Random, table: Table) -> tuple[str, str, str]:
    key, column = rng.choice(table.texts), rng.choice(table.numbers)
    function = rng.choice(list(AGGREGATES))
    word = rng.choice(AGGREGATES[function])
    text = rng.choice(("For each {k}, what is the {w} {c} of {t}", "Show the {w} {c} of {t} per {k}"))
    text = text.format(k=key, w=word, c=column, t=table.name)
    query = f"SELECT {key}, {function}({column}) FROM {table.name} GROUP BY {key}"
    note = f"Rows of {table.name} are grouped by {key}, and {function} gives the {word} {column} of each group."
    if rng.random() < 0.5:
        least = rng.randint(2, 40)
        text += f", only where there are more than {least} {table.name}"
        query += f" HAVING COUNT(*) > {least}"
        note += f" Groups of {least} rows or fewer are left out."
    return text + ".", query, note


def change_rows(rng: random.Random, table: Table) -> tuple[str, str, str]:
    clause, said = condition(rng, table)
    if rng.random() < 0.4:
        text = rng.choice(("Delete the {t} {s}.", "Remove all {t} {s}.")).format(t=table.name, s=said)
        return text, f"DELETE FROM {table.name} WHERE {clause}", f"It removes the {table.name} {said}."
    column = rng.choice(table.texts)
    value = rng.choice(TEXT_COLUMNS[column])
    text = rng.choice(("Set the {c} of {t} {s} to {v}.", "Change {c} to {v} for the {t} {s}."))
    query = f"UPDATE {table.name} SET {column} = '{value}' WHERE {clause}"
    note = f"It sets {column} to {value} for the {table.name} {said}."
    return text.format(c=column, t=table.name, s=said, v=value), query, note


def join_tables(rng: random.Random, table: Table, parent: Table) -> tuple[str, str, str]:
    left, right = rng.choice(table.numbers), rng.choice(parent.texts)
    clause, said = where(rng, parent, "p.")
    on = f"{table.name} AS c JOIN {parent.name} AS p ON c.{table.foreign_key} = p.id"
    if rng.random() < 0.5:
        text = f"Show the {left} of the {table.name} with the {right} of their {parent.name}, for {parent.name} {said}."
        note = f"The join matches {table.foreign_key} with the id of {parent.name}, for {parent.name} {said}."
        return text, f"SELECT c.{left}, p.{right} FROM {on} WHERE {clause}", note
    function = rng.choice(list(AGGREGATES))
    word = rng.choice(AGGREGATES[function])
    text = f"What is the {word} {left} of {table.name} for each {right} of {parent.name}, for {parent.name} {said}?"
    query = f"SELECT p.{right}, {function}(c.{left}) FROM {on} WHERE {clause} GROUP BY p.{right}"
    return text, query, f"After the join, {function} gives the {word} {left} for each {right} of {parent.name}."


SINGLE = (select_rows, select_rows, count_rows, aggregate, group_rows, change_rows)


class Sql(GeneratedDomain):
    """Question to SQL over one table or two, with a schema drawn anew for every prompt."""

    name = "sql"

    def example(self, rng: random.Random) -> tuple[str, str]:
        first, second = rng.sample(TABLES, 2)
        parent = make_table(rng, first)
        tables = [parent]
        if rng.random() < 0.35:
            child = make_table(rng, second, first)
            tables.append(child)
            text, query, note = join_tables(rng, child, parent)
        else:
            text, query, note = rng.choice(SINGLE)(rng, parent)
        schema = "\n".join(table.definition() for table in tables)
        return f"Tables:\n{schema}\n{text}", f"```sql\n{query};\n```\n{note}"
