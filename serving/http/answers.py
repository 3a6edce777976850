"""Answers in OpenAI's shapes, whole and in chunks, for completions and for chat."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from serving.http.generation import Ending
from serving.http.marks import Marks


def usage_of(ending: Ending) -> dict[str, Any]:
    """Token counts, and under ``speculative`` what the verify steps of this request did."""
    finished, num_completion = ending.finished, ending.num_completion_tokens
    num_steps, num_plain = finished.num_verify_steps, finished.num_plain_steps
    return {
        "prompt_tokens": finished.prompt_len,
        "completion_tokens": num_completion,
        "total_tokens": finished.prompt_len + num_completion,
        "speculative": {
            "version": finished.version,
            "is_control": finished.version == 0,
            "num_verify_steps": num_steps,
            "num_plain_steps": num_plain,
            "num_proposed_drafts": finished.num_proposed_drafts,
            "num_correct_drafts": finished.num_correct_drafts,
            "num_accept_tokens": finished.num_accept_tokens,
            "accept_length": (finished.num_accept_tokens - num_plain) / (num_steps - num_plain)
            if num_steps > num_plain
            else 0.0,
            "decode_seconds": finished.decode_seconds,
        },
    }


@dataclass(frozen=True, slots=True)
class Shape:
    """How one of the two calls writes its answer."""

    id_prefix: str
    whole: str  # "object" of a whole answer
    chunk: str
    is_chat: bool


COMPLETION = Shape("cmpl-", "text_completion", "text_completion", is_chat=False)
CHAT = Shape("chatcmpl-", "chat.completion", "chat.completion.chunk", is_chat=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one call."""

    shape: Shape
    request_id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, ending: Ending) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": ending.finish_reason}
        if self.shape.is_chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        return self._envelope(self.shape.whole, [choice], usage=usage_of(ending))

    def first_chunk(self) -> dict[str, Any] | None:
        """Chat streams begin with the role."""
        return self._chunk({"role": "assistant", "content": ""}, None) if self.shape.is_chat else None

    def chunk(self, text: str, marks: Marks | None = None) -> dict[str, Any]:
        """Text, and under ``aurora`` its marks where they were asked for."""
        chunk = self._chunk({"content": text} if self.shape.is_chat else text, None)
        return chunk if marks is None else {**chunk, "aurora": marks.to_json()}

    def last_chunk(self, ending: Ending) -> dict[str, Any]:
        return self._chunk({} if self.shape.is_chat else "", ending.finish_reason)

    def usage_chunk(self, ending: Ending) -> dict[str, Any]:
        return self._envelope(self.shape.chunk, [], usage=usage_of(ending))

    def _chunk(self, content: Any, finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        choice["delta" if self.shape.is_chat else "text"] = content
        return self._envelope(self.shape.chunk, [choice])

    def _envelope(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.shape.id_prefix + self.request_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }
