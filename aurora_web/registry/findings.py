"""What a check says, one line per thing: its state, a sentence, and the fix where something is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"  # it can be registered; the sentence says what will be missing
    REFUSED = "refused"


class Topic(StrEnum):
    """The things that are checked, in the order in which they are shown."""

    SOURCE = "Source"
    ARCHITECTURE = "Architecture"
    VOCABULARY = "Vocabulary"
    CHAT = "Chat template"
    LAYERS = "Aux layers"
    SHAPE = "Draft shape"
    WEIGHTS = "Weights"
    DRAFT = "First draft"
    MEMORY = "Memory"
    BANDWIDTH = "Hidden states"
    ENGINE = "Engine version"
    SETTINGS = "Name and plan"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check."""

    topic: Topic
    says: str
    fix: str = ""  # what would be right; "" = nothing to do
    state: State = State.REFUSED
    how: str = ""  # the formula behind an estimate

    def __str__(self) -> str:
        return f"{self.says} {self.fix}".strip()

    def to_json(self) -> dict[str, str]:
        return {
            "topic": self.topic.value,
            "state": self.state.value,
            "says": self.says,
            "fix": self.fix,
            "how": self.how,
        }


def ok(topic: Topic, says: str, how: str = "") -> Finding:
    """Nothing to do."""
    return Finding(topic, says, "", State.OK, how)


def warning(topic: Topic, says: str, fix: str, how: str = "") -> Finding:
    """No reason to refuse."""
    return Finding(topic, says, fix, State.WARNING, how)


def refused(findings: Sequence[Finding]) -> list[Finding]:
    """Those that stand in the way."""
    return [finding for finding in findings if finding.state == State.REFUSED]


def ordered(findings: Sequence[Finding]) -> list[Finding]:
    """As they are shown: by topic, and within one what is wrong first."""
    topics, states = list(Topic), [State.REFUSED, State.WARNING, State.OK]
    return sorted(findings, key=lambda f: (topics.index(f.topic), states.index(f.state)))
