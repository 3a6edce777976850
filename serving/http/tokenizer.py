"""Text to tokens and back, with the files of a Hugging Face directory and without transformers: it starts in 50 ms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"  # what an unfinished UTF-8 sequence decodes to
MAX_HELD_TOKENS = 8  # a character has at most 4 bytes: longer than this is no unfinished one


class ChatTemplateError(ValueError):
    """Messages that the target's chat template cannot write."""


class TargetTokenizer:
    """The tokenizer and chat template of one target.

    Raises FileNotFoundError without a tokenizer.json, ValueError for a broken one.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "tokenizer.json"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: the target needs its fast tokenizer beside its weights")
        self._tokenizer = Tokenizer.from_file(str(path))
        self._special: dict[str, str] = {}
        config_path = directory / "tokenizer_config.json"
        config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.exists() else {}
        for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
            token = config.get(name)
            self._special[name] = token["content"] if isinstance(token, dict) else token or ""
        self._template = _compile(_template_source(directory, config))

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokens of a plain prompt, with the special tokens that the tokenizer adds by itself."""
        return tuple(self._tokenizer.encode(text).ids)

    def encode_chat(self, messages: list[dict[str, Any]], tools: list[Any] | None = None) -> tuple[int, ...]:
        """Tokens of a conversation up to where the answer begins. Raises ChatTemplateError."""
        if self._template is None:
            raise ChatTemplateError("the target has no chat template; use /v1/completions")
        try:
            text = self._template.render(messages=messages, tools=tools, add_generation_prompt=True, **self._special)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise ChatTemplateError(f"the chat template refuses these messages: {error}") from error
        try:
            return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except UnicodeEncodeError as error:
            raise ChatTemplateError("the messages or tools have a lone surrogate (\\ud800 to \\udfff)") from error

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


def _template_source(directory: Path, config: dict[str, Any]) -> str | None:
    path = directory / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    source = config.get("chat_template")
    if isinstance(source, list):  # several named ones
        source = next((item["template"] for item in source if item["name"] == "default"), None)
    return source


def _compile(source: str | None) -> Any:
    """The template in a sandbox, with what transformers offers to templates: they come with downloaded models."""
    if source is None:
        return None
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise ValueError(f"the chat template does not compile: {error}") from error


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
