"""Domain `arithmetic`: word problems with a worked solution, one equation per line, ending in `Answer: N`."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from serving.traffic.domains.base import GeneratedDomain
from serving.traffic.domains.vocabulary import CONTAINERS, PEOPLE, PLACES, SHOPS, THINGS, VEHICLES, WORKERS

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}


@dataclass
class Worked:
    """A problem being written: its sentences, its solution lines and the value reached so far."""

    rng: random.Random
    question: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def say(self, *choices: str) -> None:
        """Add one of several phrasings of the same fact."""
        self.question.append(self.rng.choice(choices))

    def work(self, left: int, operation: str, right: int, *notes: str) -> int:
        """Add the line `note: left operation right = value` and return the value; divisions must be exact."""
        assert operation != "/" or left % right == 0
        value = OPERATIONS[operation](left, right)
        self.lines.append(f"{self.rng.choice(notes)}: {left} {operation} {right} = {value}")
        return value

    def done(self, value: int) -> tuple[str, str]:
        """The request and its answer."""
        return " ".join(self.question), "\n".join(self.lines) + f"\nAnswer: {value}"


def stock(rng: random.Random) -> tuple[str, str]:
    """Somebody has things, and two to four things happen to them."""
    problem, who, what = Worked(rng), rng.choice(PEOPLE), rng.choice(THINGS)
    other, place = rng.choice(PEOPLE), rng.choice(SHOPS)
    now = rng.randint(8, 90)
    problem.say(
        f"{who} has {now} {what}.",
        f"{who} starts the day with {now} {what}.",
        f"There are {now} {what} in {who}'s {rng.choice(CONTAINERS)}.",
        f"{who} collected {now} {what} last week.",
    )
    for _ in range(rng.randint(2, 4)):
        now = _event(problem, rng, now, other, what, place)
    problem.say(
        f"How many {what} are there now?",
        f"How many {what} does {who} have in the end?",
        f"Work out how many {what} {who} has left.",
        f"What is the number of {what} at the end?",
    )
    return problem.done(now)


def _event(problem: Worked, rng: random.Random, now: int, other: str, what: str, place: str) -> int:
    amount = rng.randint(2, 40)
    kind = rng.choice(("gain", "loss", "containers", "half"))
    if kind == "loss" and now > 4:
        amount = rng.randint(2, now - 1)
        problem.say(
            f"Then {amount} of them are given to {other}.",
            f"{other} borrows {amount} of them.",
            f"After lunch {amount} {what} get lost.",
            f"A neighbour buys {amount} of the {what}.",
        )
        return problem.work(now, "-", amount, "That leaves", "After that", "Take them away")
    if kind == "half" and now % 2 == 0 and now > 3:
        problem.say("Half of them are sold.", f"{other} takes half of what is there.", "Half of them break.")
        return problem.work(now, "/", 2, "Half of it", "One half is left")
    if kind == "containers":
        packs, each = rng.randint(2, 9), rng.randint(2, 12)
        box = rng.choice(CONTAINERS)
        problem.say(
            f"The {place} sends {packs} deliveries of one {box} with {each} {what}.",
            f"{other} brings {packs} lots of {each} {what}.",
            f"Next come {packs} packs with {each} {what} each.",
        )
        extra = problem.work(packs, "*", each, "New ones", "They bring", "In all that is")
        return problem.work(now, "+", extra, "Together", "Now there are", "Add them")
    problem.say(
        f"{other} gives {amount} more.",
        f"Another {amount} {what} arrive from the {place}.",
        f"Then {amount} more {what} are found.",
        f"The {place} adds {amount} {what} for free.",
    )
    return problem.work(now, "+", amount, "Add the new ones", "Now there are", "With those")


def shopping(rng: random.Random) -> tuple[str, str]:
    """Two kinds of goods are bought; the total or the change is asked."""
    problem, who, place = Worked(rng), rng.choice(PEOPLE), rng.choice(SHOPS)
    first, second = rng.sample(THINGS, 2)
    counts, prices = [rng.randint(2, 12) for _ in "ab"], [rng.randint(2, 25) for _ in "ab"]
    unit = rng.choice(("dollars", "euros", "pounds", "coins"))
    problem.say(
        f"At the {place}, {who} buys {counts[0]} {first} at {prices[0]} {unit} each "
        f"and {counts[1]} {second} at {prices[1]} {unit} each.",
        f"{who} goes to a {place} in {rng.choice(PLACES)}. {first.capitalize()} cost {prices[0]} {unit} each and "
        f"{second} cost {prices[1]} {unit} each. {who} takes {counts[0]} {first} and {counts[1]} {second}.",
        f"A {place} sells {first} for {prices[0]} {unit} and {second} for {prices[1]} {unit} a piece. "
        f"{who} orders {counts[0]} of the {first} and {counts[1]} of the {second}.",
    )
    left = problem.work(counts[0], "*", prices[0], f"Cost of the {first}", f"The {first} cost")
    right = problem.work(counts[1], "*", prices[1], f"Cost of the {second}", f"The {second} cost")
    total = problem.work(left, "+", right, "Total cost", "In all", "Together")
    if rng.random() < 0.5:
        problem.say(f"How many {unit} does {who} pay?", "What is the total price?", "How much is that in all?")
        return problem.done(total)
    paid = total + rng.randint(1, 60)
    problem.say(
        f"{who} pays with {paid} {unit}. How much change is given?",
        f"How much is left of {paid} {unit}?",
    )
    return problem.done(problem.work(paid, "-", total, "Change", "What is left"))


def travel(rng: random.Random) -> tuple[str, str]:
    """Distance, speed and time over two legs."""
    problem, vehicle = Worked(rng), rng.choice(VEHICLES)
    start, middle, end = rng.sample(PLACES, 3)
    speeds, hours = [rng.randrange(10, 100, 5) for _ in "ab"], [rng.randint(2, 9) for _ in "ab"]
    problem.say(
        f"A {vehicle} goes from {start} to {middle} in {hours[0]} hours at {speeds[0]} km per hour, "
        f"then on to {end} in {hours[1]} hours at {speeds[1]} km per hour.",
        f"From {start} a {vehicle} travels {hours[0]} hours at {speeds[0]} km/h. After a stop in {middle} it "
        f"travels {hours[1]} more hours at {speeds[1]} km/h and reaches {end}.",
    )
    legs = [
        problem.work(speed, "*", time, f"{name} leg", f"{name} part of the way")
        for name, speed, time in zip(("First", "Second"), speeds, hours, strict=True)
    ]
    if rng.random() < 0.6:
        problem.say(f"How far is it from {start} to {end} on this route?", "What is the total distance in km?")
        return problem.done(problem.work(legs[0], "+", legs[1], "Total distance", "Both parts"))
    problem.say("How many km longer is the longer part?", "What is the difference between the two parts in km?")
    return problem.done(problem.work(max(legs), "-", min(legs), "Difference", "Longer by"))


def sharing(rng: random.Random) -> tuple[str, str]:
    """Things are pooled and shared out evenly."""
    problem, what = Worked(rng), rng.choice(THINGS)
    names = rng.sample(PEOPLE, 2)
    friends, each = rng.randint(2, 12), rng.randint(3, 20)
    total = friends * each
    first = rng.randint(1, total - 1)
    problem.say(
        f"{names[0]} has {first} {what} and {names[1]} has {total - first} {what}. They share all of them "
        f"equally among {friends} friends.",
        f"{names[0]} and {names[1]} put {first} and {total - first} {what} on one table and divide them into "
        f"{friends} equal groups.",
        f"A {rng.choice(CONTAINERS)} with {first} {what} and another with {total - first} are packed into "
        f"{friends} parcels of the same size.",
    )
    pooled = problem.work(first, "+", total - first, "All of them", "Together", "In total")
    part = problem.work(pooled, "/", friends, "Each part", "Share it out", "Divide")
    if rng.random() < 0.6:
        problem.say(f"How many {what} are in one part?", f"How many {what} does each get?")
        return problem.done(part)
    parts = rng.randint(2, 6)
    problem.say(f"How many {what} are in {parts} such parts?", f"How many {what} do {parts} of the parts make?")
    return problem.done(problem.work(part, "*", parts, f"{parts} parts", "Several parts"))


def work_rate(rng: random.Random) -> tuple[str, str]:
    """A worker makes things for some days, and some of them are rejected or sold."""
    problem, worker, what = Worked(rng), rng.choice(WORKERS), rng.choice(THINGS)
    rate, hours, days = rng.randint(3, 18), rng.randint(2, 9), rng.randint(2, 7)
    problem.say(
        f"A {worker} makes {rate} {what} an hour and works {hours} hours a day for {days} days.",
        f"Every hour a {worker} finishes {rate} {what}. It is at work for {hours} hours on each of {days} days.",
        f"For {days} days, a {worker} works {hours} hours daily, at {rate} {what} per hour.",
    )
    daily = problem.work(rate, "*", hours, "Per day", "In one day", "Each day")
    total = problem.work(daily, "*", days, f"In {days} days", "Over all days")
    if rng.random() < 0.4:
        problem.say(f"How many {what} is that?", f"How many {what} are made in all?")
        return problem.done(total)
    bad = rng.randint(1, total - 1)
    problem.say(f"Of these, {bad} are thrown away.", f"A customer takes {bad} of them.", f"{bad} have faults.")
    problem.say(f"How many {what} are left?", "How many remain?")
    return problem.done(problem.work(total, "-", bad, "Left over", "Remaining"))


def comparison(rng: random.Random) -> tuple[str, str]:
    """Three people, each with more, fewer or a multiple of another's things."""
    problem, what = Worked(rng), rng.choice(THINGS)
    one, two, three = rng.sample(PEOPLE, 3)
    base, factor, more = rng.randint(4, 30), rng.randint(2, 6), rng.randint(2, 30)
    word = {2: "twice", 3: "three times", 4: "four times", 5: "five times", 6: "six times"}[factor]
    problem.say(
        f"{one} has {base} {what}. {two} has {word} as many, and {three} has {more} more than {two}.",
        f"{two} owns {word} as many {what} as {one}, who owns {base}. {three} owns {more} more than {two}.",
    )
    second = problem.work(base, "*", factor, f"{two} has", f"For {two}")
    third = problem.work(second, "+", more, f"{three} has", f"For {three}")
    if rng.random() < 0.3:
        problem.say(f"How many {what} does {three} have?")
        return problem.done(third)
    problem.say(f"How many {what} do the three have together?", f"How many {what} are there in all?")
    both = problem.work(base, "+", second, f"{one} and {two}", "The first two")
    return problem.done(problem.work(both, "+", third, "All three", "Together"))


FAMILIES = (stock, stock, shopping, travel, sharing, work_rate, comparison)


class Arithmetic(GeneratedDomain):
    """Multi-step word problems over whole numbers; every division is exact."""

    name = "arithmetic"

    def example(self, rng: random.Random) -> tuple[str, str]:
        return rng.choice(FAMILIES)(rng)
