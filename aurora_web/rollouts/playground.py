"""One prompt decoded twice by one replica, with and without speculation: what comes, and how fast it was.

The two requests run one after the other, so that neither slows the other down. What an engine says of itself (seconds
of its own steps) is preferred to what the console measures, which has the network and the queue in it.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aurora_web.rollouts.models import Replica
from aurora_web.rollouts.replica_stream import ReplicaError, chunks

EMBEDDED = "aurora-embedded"  # what the embedded engine calls itself; it knows the headers below
SPECULATIVE, CONTROL = "speculative", "control"
CHAT, COMPLETION = "chat", "completion"
PATHS = {CHAT: "/v1/chat/completions", COMPLETION: "/v1/completions"}
MIN_TOKENS = 32  # of either answer, for a ratio of their speeds
DOMAIN = "playground"  # unless a person names another: figures of the other domains stay those of their clients
API_KEY = "AURORA_SGLANG_API_KEY"  # of the console's environment; settings.py reads it
NO_STEPS = (
    "SGLang decodes a batch as a whole: a single request can neither be kept from speculation nor tell its steps. So "
    "its text comes without marks, and there is nothing beside it; the speed is what this console has measured."
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person wants to see; ``url`` is what the replica itself has reported."""

    url: str
    model: str  # the target's slug
    is_embedded: bool
    kind: str  # CHAT or COMPLETION
    prompt: str
    temperature: float
    max_tokens: int
    domain: str
    may_be_learnt_from: bool = False
    replica: str = "the replica"
    api_key: str = field(default="", repr=False)  # for a replica on SGLang; "" = the console has none

    @property
    def address(self) -> str:
        return self.url.rstrip("/") + PATHS[self.kind]

    @property
    def sides(self) -> tuple[str, ...]:
        return (SPECULATIVE, CONTROL) if self.is_embedded else (SPECULATIVE,)

    def body(self) -> dict[str, Any]:
        messages = {"messages": [{"role": "user", "content": self.prompt}]}
        return {
            "model": self.model,
            **(messages if self.kind == CHAT else {"prompt": self.prompt}),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def headers(self, side: str) -> dict[str, str]:
        """The request without speculation is never learnt from: once is enough."""
        found = {"x-aurora-domain": self.domain}
        if not self.may_be_learnt_from or side == CONTROL:
            found["x-aurora-no-train"] = "1"
        if self.is_embedded:
            found |= {"x-aurora-control": "1" if side == CONTROL else "0"}
            found |= {"x-aurora-steps": "1"} if side == SPECULATIVE else {}
        if self.api_key and not self.is_embedded:
            found["authorization"] = f"Bearer {self.api_key}"
        return found

    def problem(self, error: ReplicaError) -> str:
        """What went wrong, and what to do where that is known."""
        if error.status != 401 or self.is_embedded:
            return f"The replica gave no whole answer: {error}."
        what = "refused this console's API key" if self.api_key else "asks for an API key, and this console has none"
        mend = f"Set {API_KEY} in the console's environment to the server's --api-key, and start the console again."
        return f"The SGLang server of {self.replica} {what} ({error}). {mend}"


def is_embedded(replica: Replica) -> bool:
    """Whether its engine tells single steps and decodes single requests without speculation."""
    return replica.engine.startswith(EMBEDDED)


@dataclass(slots=True)
class Answer:
    """One of the two answers while it comes, and its figures when it has ended."""

    side: str
    started_at: float = field(default_factory=time.monotonic)
    first_at: float | None = None  # of the first text
    last_at: float = 0.0
    text: str = ""
    finish_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)

    def take(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        """The event for a chunk with text or marks, None for any other."""
        if isinstance(usage := chunk.get("usage"), dict):
            self.usage = usage
        choice = _first(chunk.get("choices"))
        self.finish_reason = _text(choice.get("finish_reason")) or self.finish_reason
        delta = choice.get("delta")
        text = _text(delta.get("content")) if isinstance(delta, dict) else _text(choice.get("text"))
        marks = _marks(chunk.get("aurora"))
        if not text and marks is None:
            return None
        self.last_at = time.monotonic()
        self.first_at = self.first_at or self.last_at
        self.text += text
        return {"event": "text", "side": self.side, "text": text, "marks": marks}

    @property
    def steps(self) -> dict[str, Any]:
        """What the engine says of its verify steps; {} where it says nothing."""
        found = self.usage.get("speculative")
        return found if isinstance(found, dict) else {}

    @property
    def is_control(self) -> bool:
        return self.steps.get("is_control") is True

    @property
    def engine_speed(self) -> float | None:
        """Tokens per second of the engine's own steps."""
        tokens, seconds = _number(self.steps, "num_accept_tokens"), _number(self.steps, "decode_seconds")
        return tokens / seconds if tokens and seconds else None

    @property
    def console_speed(self) -> float | None:
        """Tokens per second between the first and the last text that came."""
        num_tokens = _number(self.usage, "completion_tokens")
        seconds = self.last_at - (self.first_at or self.last_at)
        return (num_tokens - 1) / seconds if num_tokens and num_tokens > 1 and seconds > 0 else None

    @property
    def accept_length(self) -> float | None:
        """Tokens per step that had drafts to verify."""
        accepted, num_steps = (_number(self.steps, f"num_{name}") for name in ("accept_tokens", "verify_steps"))
        num_plain = _number(self.steps, "num_plain_steps") or 0
        if accepted is None or num_steps is None or num_steps <= num_plain:
            return None
        return (accepted - num_plain) / (num_steps - num_plain)

    def figures(self) -> dict[str, Any]:
        """The event at the end."""
        steps = self.steps
        speed = self.engine_speed or self.console_speed
        return {
            "event": "end",
            "side": self.side,
            "finish_reason": self.finish_reason,
            "num_tokens": _number(self.usage, "completion_tokens"),
            "version": _number(steps, "version"),
            "num_verify_steps": _number(steps, "num_verify_steps"),
            "num_proposed_drafts": _number(steps, "num_proposed_drafts"),
            "num_correct_drafts": _number(steps, "num_correct_drafts"),
            "accept_length": self.accept_length,
            "tokens_per_second": speed,
            "measured_by": "engine" if self.engine_speed else "console",
            "first_seconds": self.first_at - self.started_at if self.first_at else None,
            "seconds": time.monotonic() - self.started_at,
        }


async def play(asked: Asked) -> AsyncGenerator[dict[str, Any], None]:
    """Events for the page: begin, text and end of each side, then done; or error, and nothing after it.

    Closing this iterator closes the request that is running.
    """
    answers: dict[str, Answer] = {}
    for side in asked.sides:
        yield {"event": "begin", "side": side}
        answer = answers[side] = Answer(side)
        try:
            async with aclosing(chunks(asked.address, asked.body(), asked.headers(side))) as found:
                async for chunk in found:
                    if (event := answer.take(chunk)) is not None:
                        yield event
        except ReplicaError as error:
            yield {"event": "error", "side": side, "message": asked.problem(error)}
            return
        yield answer.figures()
    yield verdict(asked, answers)


def verdict(asked: Asked, answers: dict[str, Answer]) -> dict[str, Any]:
    """What the two say about each other; ``ratio`` None = they cannot be compared, and a note says why."""
    if CONTROL not in answers:
        return {"event": "done", "ratio": None, "notes": [NO_STEPS]}
    drafted, control = answers[SPECULATIVE], answers[CONTROL]
    fast, slow = drafted.engine_speed, control.engine_speed
    ratio = fast / slow if fast and slow else None
    notes = []
    if not control.is_control:
        ratio = None
        notes.append(
            "Nothing is compared: the replica did not say that it decoded the second one without speculation. Its "
            "engine is older than this page."
        )
    elif drafted.is_control:
        ratio = None
        notes.append("Nothing is compared: no draft is live on this replica, so both were decoded without speculation.")
    elif ratio is None:
        notes.append("Nothing is compared: an answer of a single token has no verify step.")
    elif (fewest := min(_number(each.steps, "num_accept_tokens") or 0 for each in (drafted, control))) < MIN_TOKENS:
        ratio = None
        notes.append(
            f"Nothing is compared: the steps of {fewest:g} tokens say little about speed. Ask for an answer of "
            f"at least {MIN_TOKENS}."
        )
    elif not _number(drafted.steps, "num_proposed_drafts"):
        notes.append(
            "Nothing was proposed: of all that the engine knows about this domain, no speculation is the fastest, or "
            "a pin says so."
        )
    notes.append(_about_texts(asked.temperature, drafted.text == control.text))
    return {"event": "done", "ratio": ratio, "notes": notes}


def _about_texts(temperature: float, are_equal: bool) -> str:
    if are_equal:
        return "Both texts are the same."
    if temperature > 0:
        return "The texts differ: both were drawn at random, from the same distribution."
    return (
        "The texts differ: where two tokens are almost equally likely, rounding decides, and a step that checks "
        "several tokens at once rounds differently."
    )


def _first(choices: Any) -> dict[str, Any]:
    choice = choices[0] if isinstance(choices, list) and choices else {}
    return choice if isinstance(choice, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(facts: dict[str, Any], name: str) -> float | None:
    value = facts.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < math.inf else None


def _marks(found: Any) -> dict[str, Any] | None:
    """A step's marks (serving/http/marks.py), its texts by what became of them; None where there are none."""
    if not isinstance(found, dict):
        return None
    lists = {name: value for name, value in found.items() if isinstance(value, list)}
    return {name: [_text(text) for text in value] for name, value in lists.items()}
