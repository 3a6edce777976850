"""What general questions are about: everyday subjects, and what Python knows of the world."""

import errno
import keyword
import locale
import os
import sys
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from http import HTTPStatus

from serving.traffic.domains.machine_texts import topics
from serving.traffic.domains.records import cities, media_types


def _listed(text: str) -> tuple[str, ...]:
    return tuple(" ".join(text.split()).split(", "))


EVERYDAY = _listed(
    """
    sleeping well, baking bread, growing tomatoes, learning to swim, saving money, a job interview, moving to a
    new flat, adopting a dog, running a marathon, writing a diary, learning the guitar, cooking for children, a
    long train journey, public speaking, remembering names, making friends in a new city, working from home,
    cleaning a kitchen, repairing a bicycle, choosing a laptop, planning a wedding, teaching a child to read,
    gardening on a balcony, drinking enough water, reading more books, taking better photographs, a healthy
    breakfast, recycling at home, camping in the rain, learning a language, a first aid kit, chess openings, a
    birthday party, writing a letter, buying a used car, a small budget, back pain, meditation, a power cut,
    house plants, sewing a button, ironing a shirt, volunteering, a school project, negotiating a salary, a book
    club, winter clothes, a picnic, jet lag, a garden pond
    """
)
SCIENCE = _listed(
    """
    photosynthesis, gravity, volcanoes, the water cycle, vaccines, black holes, evolution, magnets, rainbows,
    earthquakes, the human heart, electricity, sound waves, the seasons, tides, atoms, DNA, the ozone layer,
    glaciers, bees, the immune system, inflation, supply and demand, democracy, the Roman Empire, the printing
    press, the Silk Road, the industrial revolution, the moon landing, renewable energy, plastics, coral reefs,
    dinosaurs, the brain, satellites, batteries, the internet, encryption, machine learning, databases,
    compilers, operating systems, probability, prime numbers, fractions, triangles, the speed of light, steam
    engines, bridges, antibiotics
    """
)
# What stands beside the English names of languages in locale.locale_alias
NO_LANGUAGES = frozenset(
    "posix univ universal default american cextend dansk deutsch eesti galego hrvatski japan nynorsk rumanian "
    "slovene".split()
)


@lru_cache(maxsize=1)
def languages() -> tuple[str, ...]:
    """Languages that locales are called after."""
    names = (name for name in locale.locale_alias if name.isascii() and name.isalpha() and len(name) > 4)
    return tuple(sorted(name.capitalize() for name in names if name not in NO_LANGUAGES))


@lru_cache(maxsize=1)
def symbols() -> tuple[str, ...]:
    """Characters that people may ask about, with their names."""
    codes = [*range(0x2190, 0x2300), *range(0x2600, 0x2700), *range(0x20A0, 0x20C0), *range(0x391, 0x3CA)]
    named = [(chr(code), unicodedata.name(chr(code), "")) for code in codes]
    return tuple(f"{char} ({name.lower()})" for char, name in named if name)


def modules() -> Sequence[str]:
    """Names of the standard library's modules."""
    return sorted(name for name in sys.stdlib_module_names if not name.startswith("_"))


# What may be asked about, and how: {x} is the subject, {y} another of its kind, {n} a small number
KINDS: dict[str, tuple[Callable[[], Sequence[str]], tuple[str, ...]]] = {
    "everyday": (
        lambda: EVERYDAY,
        (
            "Give me {n} tips about {x}.",
            "What should I know before I start with {x}?",
            "Write a short e-mail to a friend about {x}.",
            "What are common mistakes with {x}?",
            "Make a plan for one week about {x}.",
            "Write a checklist for {x}.",
            "What can go wrong with {x}, and what helps?",
            "Tell a short story about {x}.",
            "Write a short dialogue between two friends about {x}.",
            "Compare {x} and {y}: which needs more time?",
            "How does one explain {x} to a grandparent?",
            "Write a poem of {n} lines about {x}.",
        ),
    ),
    "science": (
        lambda: SCIENCE,
        (
            "Explain {x} in plain words.",
            "Why does {x} matter?",
            "What are {n} facts about {x}?",
            "Write a quiz with {n} questions about {x}, with answers.",
            "What do people often get wrong about {x}?",
            "How would you teach {x} in ten minutes?",
            "Give an everyday example of {x}.",
            "Write an introduction to a school essay about {x}.",
            "Who helped us to understand {x}, and how?",
        ),
    ),
    "city": (
        cities,
        (
            "Plan a day in {x} for {n} people.",
            "What is {x} known for?",
            "Write a postcard from {x}.",
            "How do I get ready for a journey from {x} to {y}?",
            "What could a family with {n} children do in {x}?",
            "Compare {x} with {y} for a holiday.",
            "Write an advertisement for a small hotel in {x}.",
            "Which questions should I ask before I move to {x}?",
            "What should I pack for {n} days in {x}?",
        ),
    ),
    "language": (
        languages,
        (
            "How do I begin to learn {x}?",
            "Where is {x} spoken?",
            "Is {x} harder to learn than {y}? Why?",
            "Make a plan of {n} weeks to learn {x}.",
            "What should a translator of {x} know?",
            "Give me {n} reasons to learn {x}.",
        ),
    ),
    "module": (
        modules,
        (
            "What is Python's module `{x}` for?",
            "When would I use Python's `{x}`, and when `{y}`?",
            "Show {n} examples with Python's module `{x}`.",
            "What are common mistakes with Python's `{x}`?",
            "How do I test code that uses Python's module `{x}`?",
            "Explain Python's module `{x}` to somebody who knows only `{y}`.",
        ),
    ),
    "topic": (
        lambda: sorted({*filter(str.isalpha, topics()), *keyword.kwlist}),
        (
            "What does `{x}` mean in Python?",
            "Give {n} examples of `{x}` in Python.",
            "What is the difference between `{x}` and `{y}` in Python?",
            "Write {n} exercises about `{x}` in Python.",
            "How is Python's `{x}` different from other languages?",
        ),
    ),
    "status": (
        lambda: [f"{status.value} {status.phrase}" for status in HTTPStatus],
        (
            "What does the HTTP status {x} mean?",
            "My web server answers {x}. What are {n} likely causes?",
            "Write a friendly error page for {x}.",
            "When should an API answer {x}, and when {y}?",
        ),
    ),
    "error": (
        lambda: [f"{name} ({os.strerror(number)})" for number, name in sorted(errno.errorcode.items())],
        (
            "A program stops with {x}. What should I check?",
            "What is the difference between {x} and {y}?",
            "Give {n} causes of the error {x} on Linux.",
            "Write a message to a customer whose upload failed with {x}.",
        ),
    ),
    "file": (
        lambda: [f"{suffix} ({kind})" for suffix, kind in media_types()],
        (
            "What is a {x} file, and what opens it?",
            "How do I convert a {x} file into {y}?",
            "What should I check before I open a {x} file from the internet?",
            "Name {n} good uses of {x} files.",
        ),
    ),
    "symbol": (
        symbols,
        (
            "What is the character {x} used for?",
            "How do I type {x}, and what does it stand for?",
            "When would one write {x}, and when {y}?",
        ),
    ),
}
