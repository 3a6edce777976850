"""Can text become this model's tokens, and end where it should? Every finding is explained; no torch is needed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from aurora_web.registry.findings import Finding, Topic, warning
from speculators.target_config import end_tokens
from speculators.tokenizer_files import CONFIG, TEMPLATE, TOKENIZER, BrokenTemplate, ChatTemplate, read_tokenizer

AGAIN = "Download that file again."


def tokenizer_problems(folder: Path, vocab_size: int = 0) -> list[Finding]:
    """What is wrong with tokenizer.json, and with its ids where ``vocab_size`` bounds them. Raises OSError."""
    path = folder / TOKENIZER
    fix = f"Put the {TOKENIZER} of this model into the directory."
    if not path.is_file():
        says = f"{TOKENIZER} is missing: the engine needs the fast tokenizer's file."
        return [Finding(Topic.VOCABULARY, says, fix)]
    changed = path.stat()
    try:
        highest = _highest_id(folder, changed.st_mtime_ns, changed.st_size)
    except ValueError as error:
        return [Finding(Topic.VOCABULARY, f"{error}.", fix)]
    if vocab_size and highest >= vocab_size:
        says = f"{TOKENIZER} has token id {highest}, but config.json says vocab_size {vocab_size}: they do not match."
        return [Finding(Topic.VOCABULARY, says, fix)]
    return []


@lru_cache(maxsize=32)
def _highest_id(folder: Path, changed: int, size: int) -> int:
    """Of the tokenizer's tokens; a large file takes half a second, and every step of the wizard asks.

    ``changed`` and ``size`` are the file's: a new one is read again. Raises OSError or ValueError.
    """
    vocabulary = read_tokenizer(folder).get_vocab()
    if not vocabulary:
        raise ValueError(f"{TOKENIZER} has no tokens")
    return int(max(vocabulary.values()))


def end_problems(folder: Path, config: dict[str, Any]) -> list[Finding]:
    """What is wrong with the tokens that end an answer. Raises OSError."""
    try:
        end_tokens(folder, config)
    except ValueError as error:
        return [Finding(Topic.VOCABULARY, f"{error}.", AGAIN)]
    return []


def chat_problems(folder: Path) -> list[Finding]:
    """What stands in the way of chat requests; a model without a template is served all the same. Raises OSError."""
    try:
        template = ChatTemplate.read(folder)
    except BrokenTemplate as error:
        fix = f"{AGAIN} Or put a template that compiles into {TEMPLATE}, which goes first."
        return [Finding(Topic.CHAT, f"{error}.", fix)]
    except ValueError as error:
        return [Finding(Topic.CHAT, f"{error}.", AGAIN)]
    if template is not None:
        return []
    says = (
        f"The model has no chat template, neither {TEMPLATE} nor chat_template in {CONFIG}: /v1/chat/completions "
        "answers with 400. /v1/completions works, and demo traffic goes there."
    )
    return [warning(Topic.CHAT, says, f"Put a {TEMPLATE} into the directory if clients are to chat with the model.")]
