"""Domain `json_tools`: pick tools from a made-up list and write the calls as JSON."""

import json
import random
from dataclasses import dataclass

from serving.traffic.domains.base import GeneratedDomain
from serving.traffic.domains.vocabulary import CATEGORIES, COLOURS, PEOPLE, PLACES, STATUSES, SUBJECTS

Value = str | int | float | bool | list[str]

VERBS = "create update find send book cancel track plan open check reserve search add schedule start".split()
NOUNS = (
    "meeting reminder invoice order ticket flight room table report task note playlist alarm backup delivery "
    "payment parcel survey lesson tour event shift course taxi repair refund coupon"
).split()
PARAMETERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "name": ("string", ("named {v}", "under the name {v}", "for {v}")),
    "recipient": ("string", ("to {v}", "addressed to {v}")),
    "city": ("string", ("in {v}", "located in {v}", "around {v}")),
    "destination": ("string", ("going to {v}", "with destination {v}")),
    "subject": ("string", ("about the {v}", "with the subject {v}", "on the topic {v}")),
    "category": ("string", ("in the category {v}", "filed under {v}")),
    "colour": ("string", ("in {v}", "coloured {v}")),
    "status": ("string", ("with status {v}", "marked as {v}")),
    "date": ("string", ("on {v}", "dated {v}")),
    "time": ("string", ("at {v}", "starting at {v}")),
    "priority": ("string", ("with {v} priority", "at priority {v}")),
    "people": ("integer", ("for {v} people", "for a group of {v}")),
    "days": ("integer", ("for {v} days", "lasting {v} days")),
    "quantity": ("integer", ("with quantity {v}", "{v} times")),
    "limit": ("integer", ("at most {v} results", "limited to {v}")),
    "budget": ("number", ("with a budget of {v}", "for up to {v} euros")),
    "discount": ("number", ("with {v} percent off", "with a discount of {v}")),
    "notify": ("boolean", ()),
    "private": ("boolean", ()),
    "tags": ("array", ("tagged {v}", "with the tags {v}")),
    "guests": ("array", ("with {v} as guests", "inviting {v}")),
}
POOLS: dict[str, list[str]] = {
    "name": PEOPLE,
    "recipient": PEOPLE,
    "city": PLACES,
    "destination": PLACES,
    "subject": SUBJECTS,
    "category": CATEGORIES,
    "colour": COLOURS,
    "status": STATUSES,
    "priority": ["low", "normal", "high", "urgent"],
    "tags": CATEGORIES + STATUSES,
    "guests": PEOPLE,
}
FLAGS = {
    ("notify", True): ("and send a notification", "with notifications on"),
    ("notify", False): ("without any notification", "with notifications off"),
    ("private", True): ("and keep it private", "hidden from others"),
    ("private", False): ("visible to everybody", "and make it public"),
}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool: `verb_noun` and the names of its parameters; their types are in PARAMETERS."""

    verb: str
    noun: str
    parameters: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.verb}_{self.noun}"

    def signature(self) -> str:
        """The tool as the prompt lists it."""
        return f"{self.name}({', '.join(f'{name}: {PARAMETERS[name][0]}' for name in self.parameters)})"


def draw_value(rng: random.Random, parameter: str) -> Value:
    """Draw a value of the parameter's type."""
    kind = PARAMETERS[parameter][0]
    if parameter == "date":
        return f"{rng.randint(2025, 2029)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    if parameter == "time":
        return f"{rng.randint(6, 22):02d}:{rng.choice((0, 10, 15, 20, 30, 40, 45, 50)):02d}"
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "integer":
        return rng.randint(2, 40)
    if kind == "number":
        return rng.randint(2, 900) / 2
    if kind == "array":
        return rng.sample(POOLS[parameter], rng.randint(2, 3))
    return rng.choice(POOLS[parameter])


def phrase(rng: random.Random, parameter: str, value: Value) -> str:
    """Say in English that a parameter has a value."""
    if isinstance(value, bool):
        return rng.choice(FLAGS[parameter, value])
    said = ", ".join(value[:-1]) + " and " + value[-1] if isinstance(value, list) else str(value)
    return rng.choice(PARAMETERS[parameter][1]).format(v=said)


def make_tool(rng: random.Random) -> Tool:
    """Draw a tool with two to four parameters."""
    return Tool(rng.choice(VERBS), rng.choice(NOUNS), tuple(rng.sample(list(PARAMETERS), rng.randint(2, 4))))


class JsonTools(GeneratedDomain):
    """A list of one to three tools and a request that needs one or two calls, answered as a JSON array."""

    name = "json_tools"

    def example(self, rng: random.Random) -> tuple[str, str]:
        tools = list({tool.name: tool for tool in (make_tool(rng) for _ in range(rng.randint(1, 3)))}.values())
        calls = rng.sample(tools, rng.randint(1, min(2, len(tools))))
        answers, sentences = [], []
        for tool in calls:
            values = {parameter: draw_value(rng, parameter) for parameter in tool.parameters}
            answers.append({"name": tool.name, "arguments": values})
            sentences.append(self._sentence(rng, tool, values))
        listing = "\n".join(f"- {tool.signature()}" for tool in tools)
        body = ",\n".join(f" {json.dumps(answer)}" for answer in answers)
        return f"Tools:\n{listing}\n{' '.join(sentences)}", f"[\n{body}\n]"

    def _sentence(self, rng: random.Random, tool: Tool, values: dict[str, Value]) -> str:
        phrases = [phrase(rng, parameter, value) for parameter, value in values.items()]
        rng.shuffle(phrases)
        opening = rng.choice(
            (
                "Please {v} a {n}",
                "I want to {v} a {n}",
                "Can you {v} the {n}",
                "Could you {v} one {n}",
                "We need to {v} a {n}",
            )
        ).format(v=tool.verb, n=tool.noun)
        return f"{opening} {', '.join(phrases)}{'?' if opening.startswith(('Can', 'Could')) else '.'}"
