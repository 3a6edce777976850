"""Text to tokens and back, with the files of a Hugging Face directory and without transformers: it starts in 50 ms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from serving.http.characters import CharacterBound
from speculators.tokenizer_files import TOKENIZER, ChatTemplate, read_tokenizer

REPLACEMENT = "\ufffd"  # what an unfinished UTF-8 sequence decodes to
MAX_HELD_TOKENS = 8  # a character has at most 4 bytes: longer than this is no unfinished one


class ChatTemplateError(ValueError):
    """Messages that the target's chat template cannot write."""


class TooManyTokensError(ValueError):
    """A text of more tokens than are wanted, as its characters tell."""

    def __init__(self, least: int) -> None:
        super().__init__(f"at least {least} tokens")
        self.least = least  # tokens that it has at least


class TargetTokenizer:
    """The tokenizer and chat template of one target.

    Raises FileNotFoundError without a tokenizer.json, ValueError naming the file that is broken.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / TOKENIZER
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: the target needs its fast tokenizer beside its weights")
        self._tokenizer = read_tokenizer(directory)
        self._template = ChatTemplate.read(directory)
        self._bound = CharacterBound.of(self._tokenizer)

    def encode(self, text: str, most: int | None = None) -> tuple[int, ...]:
        """Tokens of a plain prompt, with the special tokens that the tokenizer adds by itself.

        Raises TooManyTokensError for a text that is too long for ``most`` tokens, before they are looked for.
        """
        return self._encode(text, most, add_special_tokens=True)

    def encode_chat(
        self, messages: list[dict[str, Any]], tools: list[Any] | None = None, most: int | None = None
    ) -> tuple[int, ...]:
        """Tokens of a conversation up to where the answer begins. Raises ChatTemplateError, TooManyTokensError."""
        if self._template is None:
            raise ChatTemplateError("the target has no chat template; use /v1/completions")
        try:
            text = self._template.render(messages, tools)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise ChatTemplateError(f"the chat template refuses these messages: {error}") from error
        try:
            return self._encode(text, most, add_special_tokens=False)
        except TypeError as error:  # what the tokenizer says of text that has no encoding
            raise ChatTemplateError("the messages or tools have a lone surrogate (\\ud800 to \\udfff)") from error

    def _encode(self, text: str, most: int | None, *, add_special_tokens: bool) -> tuple[int, ...]:
        if most is not None and self._bound is not None and (least := self._bound.least_tokens(text)) > most:
            raise TooManyTokensError(least)
        # Unlike the call for one text, that for several does not hold the GIL: the engine's thread goes on
        [encoding] = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return tuple(encoding.ids)

    def decode(self, tokens: list[int]) -> str:
        """Text of tokens, special ones left out."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


class Detokeniser:
    """Text of a growing list of tokens: what ``push`` returns adds up to ``decode`` of all.

    A piece is held back while it ends in an unfinished character. Each piece is decoded together with the one before
    it, since some decoders treat the first token of a text differently.
    """

    def __init__(self, tokenizer: TargetTokenizer) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = []  # the piece given out last
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """Text that this token completes."""
        self._held.append(token)
        text = self._text()
        if text.endswith(REPLACEMENT) and len(self._held) < MAX_HELD_TOKENS:
            return ""
        self._before, self._held = self._held, []
        return text

    def ahead(self, tokens: Sequence[int]) -> list[str]:
        """The text that each of these would add here; nothing is pushed."""
        twin = Detokeniser(self._tokenizer)
        twin._before, twin._held = self._before, list(self._held)
        texts = [twin.push(token) for token in tokens]
        return [*texts[:-1], texts[-1] + twin.finish()] if texts else []

    def finish(self) -> str:
        """What is still held, unfinished characters included."""
        return self._text() if self._held else ""

    def _text(self) -> str:
        known = self._tokenizer.decode(self._before)
        return self._tokenizer.decode(self._before + self._held)[len(known) :]


class StopFinder:
    """Cuts a growing text before the first stop string, holding back what may be the beginning of one."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._held = ""
        self.is_found = False

    def push(self, text: str) -> str:
        """Text that is safe to give out."""
        if not self._stop or self.is_found:
            return "" if self.is_found else text
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.is_found = True
            return self._held[: min(found)]
        keep = max(self._num_begun(stop) for stop in self._stop)
        given, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return given

    def finish(self) -> str:
        """What was held back, when the text ends here."""
        return "" if self.is_found else self._held

    def _num_begun(self, stop: str) -> int:
        """Length of the longest end of the held text that begins ``stop``."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
