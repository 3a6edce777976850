"""Records as machines and people write them down, from what every machine knows: hosts' errors, cities, file types.

A record is its text and the fields that are in it; what a field holds can be read off the text.
"""

import errno
import mimetypes
import os
import random
import signal
import unicodedata
import zoneinfo
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

from serving.traffic.domains.vocabulary import CATEGORIES, PEOPLE, PLACES, STATUSES, SUBJECTS, THINGS

Value = str | int | float | list[str]


@dataclass(frozen=True, slots=True)
class Record:
    """What was written down, and what can be read off it."""

    kind: str  # one word for what it is
    text: str
    fields: dict[str, Value]


@lru_cache(maxsize=1)
def cities() -> tuple[str, ...]:
    """Cities that have a time zone, and those of the word list."""
    zones = (zone.split("/") for zone in zoneinfo.available_timezones())
    continents = {"Africa", "America", "Asia", "Atlantic", "Australia", "Europe", "Indian", "Pacific"}
    found = {parts[-1].replace("_", " ") for parts in zones if len(parts) > 1 and parts[0] in continents}
    return tuple(sorted(found.union(PLACES)))


@lru_cache(maxsize=1)
def media_types() -> tuple[tuple[str, str], ...]:
    """(suffix, media type) of Python's own table."""
    return tuple(sorted(mimetypes.MimeTypes().types_map[True].items()))


def _date(rng: random.Random) -> str:
    return f"{rng.randint(2015, 2026)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def _time(rng: random.Random) -> str:
    return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"


def _address(rng: random.Random) -> str:
    return ".".join(str(rng.randint(1, 254)) for _ in range(4))


def _file(rng: random.Random) -> tuple[str, str]:
    """(name, media type)"""
    suffix, kind = rng.choice(media_types())
    return f"{rng.choice(SUBJECTS).replace(' ', rng.choice('-_'))}{suffix}", kind


def access_line(rng: random.Random) -> Record:
    """A line of a web server's access log."""
    status, (name, kind) = rng.choice(list(HTTPStatus)), _file(rng)
    fields: dict[str, Value] = {
        "address": _address(rng),
        "date": _date(rng),
        "time": _time(rng),
        "method": rng.choice(("GET", "POST", "PUT", "DELETE", "HEAD")),
        "path": f"/{rng.choice(CATEGORIES)}/{name}",
        "status": int(status),
        "reason": status.phrase,
        "bytes": rng.randint(100, 900_000),
        "media_type": kind,
    }
    text = '{address} [{date} {time}] "{method} {path}" {status} {reason}, {bytes} bytes, {media_type}'
    return Record("access log line", text.format(**fields), fields)


def system_line(rng: random.Random) -> Record:
    """A line of a system log about a failed call."""
    number, (name, _) = rng.choice(sorted(errno.errorcode)), _file(rng)
    fields: dict[str, Value] = {
        "date": _date(rng),
        "time": _time(rng),
        "host": f"{rng.choice(CATEGORIES)}-{rng.randint(1, 99)}",
        "process": rng.choice(("backup", "mail", "scheduler", "proxy", "indexer", "sync")),
        "pid": rng.randint(100, 60_000),
        "file": f"/srv/{rng.choice(CATEGORIES)}/{name}",
        "error": errno.errorcode[number],
        "message": os.strerror(number),
        "signal": rng.choice(sorted(signal.Signals)).name,
    }
    text = "{date} {time} {host} {process}[{pid}]: {file}: {error} ({message}), stopped by {signal}"
    return Record("system log line", text.format(**fields), fields)


def meeting(rng: random.Random) -> Record:
    """An invitation as people write it."""
    fields: dict[str, Value] = {
        "from": rng.choice(PEOPLE),
        "to": rng.sample(PEOPLE, rng.randint(1, 3)),
        "subject": rng.choice(SUBJECTS),
        "city": rng.choice(cities()),
        "date": _date(rng),
        "time": _time(rng),
        "minutes": rng.randrange(15, 240, 5),
        "room": f"{rng.choice('ABCDEFGH')}{rng.randint(1, 40)}",
    }
    text = rng.choice(
        (
            "Hello {to}, let us talk about the {subject} in {city} on {date} at {time}. We need {minutes} minutes and "
            "have room {room}. Best, {from}",
            "Dear {to}: {from} invites you to {city}, {subject}, {date}, {time}, room {room}, for {minutes} minutes.",
            "{from} to {to}: on {date} the {subject} is planned for {minutes} minutes, starting at {time}, room {room} "
            "of the {city} office.",
        )
    )
    names = ", ".join(fields["to"]) if isinstance(fields["to"], list) else ""
    return Record("invitation", text.format(**(fields | {"to": names})), fields)


def order(rng: random.Random) -> Record:
    """An order or what became of it."""
    fields: dict[str, Value] = {
        "customer": rng.choice(PEOPLE),
        "city": rng.choice(cities()),
        "quantity": rng.randint(2, 400),
        "product": rng.choice(THINGS),
        "category": rng.choice(CATEGORIES),
        "price": rng.randint(100, 90_000) / 100,
        "date": _date(rng),
        "status": rng.choice(STATUSES),
        "number": f"{rng.choice('KLMNPQ')}-{rng.randint(1000, 99_999)}",
    }
    text = rng.choice(
        (
            "{customer} from {city} ordered {quantity} {product} ({category}) on {date} for {price} euros. The order "
            "{number} is {status}.",
            "Order {number} of {date}: {quantity} {product}, department {category}, {price} EUR in all, delivered to "
            "{customer} in {city}; status {status}.",
            "On {date} we noted {number} as {status}: {customer}, {city}, wants {quantity} {product} from {category} "
            "at {price} euros.",
        )
    )
    return Record("order", text.format(**fields), fields)


def journey(rng: random.Random) -> Record:
    """A journey between two places."""
    start, end = rng.sample(cities(), 2)
    fields: dict[str, Value] = {
        "passenger": rng.choice(PEOPLE),
        "origin": start,
        "destination": end,
        "date": _date(rng),
        "departure": _time(rng),
        "seat": f"{rng.randint(1, 60)}{rng.choice('ABCDEF')}",
        "bags": rng.randint(2, 5),
        "price": rng.randint(2_000, 200_000) / 100,
        "code": f"{rng.choice('ABDEFK')}{rng.choice('QRSTUV')}{rng.randint(100, 9999)}",
    }
    text = rng.choice(
        (
            "{passenger} flies from {origin} to {destination} on {date} with {code}, departure {departure}, seat "
            "{seat}, {bags} bags, fare {price}.",
            "Boarding pass {code}: {passenger}, {origin} - {destination}, {date} {departure}, seat {seat}. Bags: "
            "{bags}. Paid: {price}.",
            "Your trip {code} to {destination} leaves {origin} at {departure} on {date}. Passenger {passenger} has "
            "seat {seat} and {bags} bags; the price was {price}.",
        )
    )
    return Record("journey", text.format(**fields), fields)


def file_note(rng: random.Random) -> Record:
    """What somebody says about a file."""
    name, kind = _file(rng)
    fields: dict[str, Value] = {
        "name": name,
        "media_type": kind,
        "owner": rng.choice(PEOPLE),
        "kilobytes": rng.randint(1, 90_000),
        "changed": _date(rng),
        "folder": rng.choice(CATEGORIES),
        "status": rng.choice(STATUSES),
    }
    text = rng.choice(
        (
            "{owner} last changed {name} ({media_type}, {kilobytes} kB) on {changed}; it is in the folder {folder} and "
            "marked {status}.",
            "{folder}/{name}: {media_type}, {kilobytes} kB, owner {owner}, changed {changed}, {status}",
        )
    )
    return Record("file", text.format(**fields), fields)


def character(rng: random.Random) -> Record:
    """A character of Unicode with its properties."""
    while not unicodedata.name(char := chr(rng.randint(0xA1, 0x2BFF)), ""):
        pass
    fields: dict[str, Value] = {
        "code": f"U+{ord(char):04X}",
        "name": unicodedata.name(char),
        "category": unicodedata.category(char),
        "direction": unicodedata.bidirectional(char),
        "width": unicodedata.east_asian_width(char),
    }
    text = "{code} is {name}: category {category}, direction {direction}, width {width}"
    return Record("character", text.format(**fields), fields)


KINDS = (access_line, system_line, meeting, meeting, order, order, journey, journey, file_note, character)


def draw_records(rng: random.Random) -> list[Record]:
    """One record, or a few of the same kind."""
    kind = rng.choice(KINDS)
    return [kind(rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
