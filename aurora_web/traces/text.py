"""Token ids as text, by the target's own tokenizer.json; the console needs no torch for it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from django.conf import settings
from tokenizers import Tokenizer

from aurora_web.registry.models import Target


class NoTokenizer(RuntimeError):
    """The target's tokenizer cannot be read here; the message says where it was looked for and why not."""


class TokenReader:
    """Pieces of text, token by token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def pieces(self, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
        """The text that each token adds after ``before``; a token that is a part of a character is shown as \ufffd."""
        found = []
        previous = list(before[-1:])
        for token_id in ids:
            found.append(self.text([token_id], previous))
            previous = [token_id]
        return found

    def text(self, ids: Sequence[int], before: Sequence[int] = ()) -> str:
        """The text that all of them add after ``before``."""
        alone = self._decode(list(ids))
        if not before or not ids:
            return alone
        # Some tokenizers drop a space at the start of a text: with its neighbour before it, a token keeps its own.
        previous = list(before[-1:])
        head, both = self._decode(previous), self._decode([*previous, *ids])
        return both[len(head) :] if both.startswith(head) and "\ufffd" not in head else alone

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))


def reader_of(target: Target) -> TokenReader:
    """The reader of a target's tokens. Raises NoTokenizer."""
    if target.path:
        directory = Path(target.path)
    elif settings.MODELS_DIR is not None:
        directory = settings.MODELS_DIR / target.model_id
    else:
        raise NoTokenizer(
            f"{target.slug} was registered by its model id: set AURORA_MODELS_DIR to a directory with "
            f"{target.model_id}/tokenizer.json to see text"
        )
    path = directory / "tokenizer.json"
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise NoTokenizer(f"{path} cannot be read by the console: {error.strerror}") from error
    return _load(str(path), changed)


def reader_for(target: Target, may_read_text: bool) -> tuple[TokenReader | None, str]:
    """The reader for somebody who ``may_read_text``, or None and why the tokenizer cannot be read, if that is why."""
    try:
        return (reader_of(target), "") if may_read_text else (None, "")
    except NoTokenizer as error:
        return None, str(error)


@functools.lru_cache(maxsize=8)
def _load(path: str, changed: int) -> TokenReader:
    """``changed`` is the file's time: a new file is read again."""
    try:
        return TokenReader(Tokenizer.from_file(path))
    except Exception as error:
        raise NoTokenizer(f"{path} is no tokenizer that the console can read: {error}") from error
