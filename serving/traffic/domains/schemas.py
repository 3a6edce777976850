"""Databases that SQL questions are asked about: known fields of work, each time other tables, columns, values."""

import random
from dataclasses import dataclass
from functools import lru_cache

# One table a line: text columns, numbers (with their range), dates, and the tables it refers to.
WORLDS = """
library
authors | country language genre | birth_year:1850-2000 awards:0-12 | |
books | title publisher genre | pages:80-900 price:5-60 copies:1-20 | published_on | authors
members | city category email | age:8-90 visits:1-300 | joined_on |
loans | status branch | days:1-60 fine:0-25 renewals:0-5 | loaned_on returned_on | books members
shop
customers | city country segment | credit:0-5000 visits:1-400 | registered_on |
products | category brand colour | price:1-900 stock:0-500 weight:1-80 | added_on |
orders | status channel city | total:5-3000 items:1-30 discount:0-50 | ordered_on shipped_on | customers
reviews | title language status | rating:1-5 votes:0-200 | written_on | products customers
clinic
doctors | specialty city language | experience:1-45 rating:1-5 | hired_on |
patients | city insurance blood_group | age:0-99 weight:3-150 height:50-205 | registered_on |
visits | reason status room | minutes:5-120 cost:20-900 | visited_on | doctors patients
prescriptions | medicine form status | dose:1-500 days:1-90 | issued_on | patients doctors
airport
airlines | country alliance hub | fleet:3-600 rating:1-5 | founded_on |
flights | origin destination status | distance:80-9000 seats:20-500 delay:0-300 | departed_on | airlines
passengers | country language status | age:1-95 miles:0-90000 | enrolled_on |
tickets | cabin seat_row status | price:30-4000 bags:0-4 | booked_on | flights passengers
school
teachers | subject city degree | salary:1800-7000 experience:0-40 | hired_on |
courses | title subject level | hours:10-120 places:5-200 fee:0-900 | starts_on | teachers
students | city country major | age:16-70 credits:0-240 | enrolled_on |
grades | term status remark | points:0-100 attempts:1-4 | graded_on | courses students
music
artists | country genre label | followers:10-900000 founded_year:1950-2024 | |
albums | title genre label | tracks:4-30 minutes:20-120 price:4-40 | released_on | artists
listeners | country plan device | age:12-90 minutes:1-9000 | joined_on |
plays | device country source | seconds:5-600 skips:0-9 | played_on | albums listeners
factory
plants | city country manager | workers:10-3000 lines:1-40 | opened_on |
machines | model maker status | power:1-900 hours:0-60000 age:0-30 | installed_on | plants
parts | name material supplier | weight:1-500 cost:1-900 stock:0-5000 | ordered_on | machines
inspections | result inspector shift | defects:0-60 minutes:5-240 | inspected_on | machines
software
teams | department city lead | members:2-30 budget:1000-90000 | formed_on |
projects | title status language | priority:1-5 hours:5-900 | started_on | teams
issues | title status severity | points:1-13 comments:0-80 | opened_on closed_on | projects
commits | branch author status | files:1-90 added:1-2000 removed:0-2000 | committed_on | projects
hotel
hotels | city country chain | stars:1-5 rooms:10-900 | opened_on |
guests | country language status | age:18-90 stays:1-60 | registered_on |
rooms | kind floor view | price:30-900 beds:1-4 size:9-120 | renovated_on | hotels
bookings | channel status purpose | nights:1-30 guests_count:1-6 total:30-9000 | booked_on checked_in_on | rooms guests
farm
farms | region owner soil | area:1-900 rainfall:100-2000 | founded_on |
fields | crop irrigation soil | area:1-90 slope:0-30 | planted_on | farms
harvests | crop quality season | tons:1-400 price:50-900 moisture:5-40 | harvested_on | fields
sensors | kind maker status | battery:0-100 readings:1-90000 | installed_on | fields
energy
stations | city country fuel | capacity:5-3000 staff:2-900 | opened_on |
meters | district kind status | reading:0-90000 limit_kw:3-90 | installed_on | stations
outages | cause district severity | minutes:1-900 customers:1-90000 | started_on | stations
bills | tariff status district | amount:5-900 units:10-3000 | issued_on paid_on | meters
sport
clubs | city country league | members:20-90000 titles:0-40 | founded_on |
players | position country foot | age:16-42 goals:0-60 salary:1000-90000 | signed_on | clubs
matches | stadium weather stage | spectators:50-90000 goals:0-11 cards:0-12 | played_on | clubs
injuries | kind severity side | days:1-300 cost:100-9000 | happened_on | players
""".strip()

VALUES = {
    name: tuple(values.split())
    for names, values in {
        "status": "open closed active pending cancelled shipped paid overdue archived approved",
        "city hub origin destination": "Lisbon Oslo Nairobi Kyoto Denver Lyon Lima Porto Cairo Riga Seoul Toronto",
        "country": "Norway Kenya Japan Peru France Egypt Latvia Canada Chile India Spain Ghana",
        "language": "English French Arabic Hindi Swahili Spanish Japanese German",
        "category": "books garden toys office kitchen travel sport tools",
        "genre": "jazz rock crime history poetry folk classical science",
        "level severity": "low medium high",
        "district region side": "north south east west centre",
        "segment plan tariff quality": "basic standard premium business",
        "channel source device": "web phone shop partner tablet",
        "specialty department": "surgery cardiology radiology finance research support",
        "subject major degree": "biology physics history music law economics",
        "crop soil material": "wheat maize clay sand steel copper",
        "colour": "red blue green black white",
        "supplier maker brand publisher label owner": "Acme Borealis Kestrel Lumen Orchard Quarry",
        "manager lead author inspector": "Ada Bilal Chen Dana Emeka Farah Goran",
        "cabin kind form cause reason result": "first second standard special unknown",
    }.items()
    for name in names.split()
}
LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True, slots=True)
class Table:
    """One table; `numbers` has (name, least, greatest) each."""

    name: str
    texts: tuple[str, ...]
    numbers: tuple[tuple[str, int, int], ...]
    dates: tuple[str, ...]
    parents: tuple[str, ...]

    @property
    def one(self) -> str:
        """The name of a row: `matches` has a match, `branches` a branch."""
        return self.name.removesuffix("es") if self.name.endswith("ches") else self.name.removesuffix("s")

    def columns(self) -> list[tuple[str, str]]:
        """(name, SQL type) of all columns."""
        found = [("id", "INTEGER PRIMARY KEY")]
        found += [(name, "TEXT") for name in self.texts]
        found += [(name, "INTEGER") for name, _, _ in self.numbers]
        return found + [(name, "DATE") for name in self.dates]

    def keys(self, tables: dict[str, "Table"]) -> dict[str, str]:
        """Foreign key -> table, for those that are in the schema."""
        return {f"{tables[name].one}_id": name for name in self.parents if name in tables}


@lru_cache(maxsize=1)
def worlds() -> dict[str, tuple[Table, ...]]:
    """Every field of work with all of its tables."""
    found: dict[str, tuple[Table, ...]] = {}
    for line in WORLDS.splitlines():
        if "|" not in line:
            world, found[line] = line, ()
            continue
        name, texts, numbers, dates, parents = (part.split() for part in line.split("|"))
        ranges = [number.replace(":", "-").split("-") for number in numbers]
        read = tuple((column, int(low), int(high)) for column, low, high in ranges)
        found[world] += (Table(name[0], tuple(texts), read, tuple(dates), tuple(parents)),)
    return found


def draw_schema(rng: random.Random) -> dict[str, Table]:
    """One to three tables of one field of work, each with some of its columns; a later one may refer to an earlier."""
    tables = worlds()[rng.choice(list(worlds()))]
    chosen = sorted(rng.sample(range(len(tables)), rng.choice((1, 2, 2, 3))))
    return {tables[i].name: _narrowed(rng, tables[i]) for i in chosen}


def _narrowed(rng: random.Random, table: Table) -> Table:
    texts = rng.sample(table.texts, rng.randint(1, len(table.texts)))
    numbers = rng.sample(table.numbers, rng.randint(1, len(table.numbers)))
    return Table(table.name, tuple(texts), tuple(numbers), table.dates, table.parents)


def draw_value(rng: random.Random, column: str) -> str:
    """A value for a text column; one as test data have them where the column has no list."""
    return rng.choice(VALUES[column]) if column in VALUES else f"{column} {rng.choice(LETTERS)}"


def as_statements(tables: dict[str, Table]) -> str:
    """The schema as CREATE TABLE statements."""
    return "\n".join(
        f"CREATE TABLE {table.name} ({', '.join(f'{name} {kind}' for name, kind in _all_columns(table, tables))});"
        for table in tables.values()
    )


def as_listing(tables: dict[str, Table]) -> str:
    """The schema as a list of tables with their columns."""
    return "\n".join(
        f"- {table.name}({', '.join(name for name, _ in _all_columns(table, tables))})" for table in tables.values()
    )


def as_columns(tables: dict[str, Table]) -> str:
    """The schema with one column a line."""
    return "\n".join(
        f"{table.name}\n"
        + "\n".join(f"  {name}: {kind.split()[0].lower()}" for name, kind in _all_columns(table, tables))
        for table in tables.values()
    )


def _all_columns(table: Table, tables: dict[str, Table]) -> list[tuple[str, str]]:
    keys = [(key, f"INTEGER REFERENCES {parent}(id)") for key, parent in table.keys(tables).items()]
    return table.columns() + keys
