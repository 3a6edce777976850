"""What a target's tokenizer.json, tokenizer_config.json and chat_template.jinja say: no torch.

The engine reads and writes by it, and the console says by it what the engine cannot serve.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Self

from jinja2 import TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from speculators.target_config import read_object

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"  # where it is there, the config's chat_template is not looked at
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")


class BrokenTemplate(ValueError):
    """A chat template that does not compile."""


def read_tokenizer(directory: Path) -> Tokenizer:
    """The fast tokenizer. Raises OSError, or ValueError for a file that is none."""
    content = (directory / TOKENIZER).read_bytes()
    try:
        return Tokenizer.from_buffer(content)
    except ValueError as error:
        why = str(error).removeprefix("Cannot instantiate Tokenizer from buffer: ")
        raise ValueError(f"{TOKENIZER} is not a fast tokenizer's file: {why}") from error


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """How a target is told a conversation."""

    compiled: Any
    special: Mapping[str, str]  # tokens that templates write by their names

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """None for a target without one. Raises OSError, or ValueError naming the file that is at fault."""
        path = directory / CONFIG
        config = read_object(path) if path.exists() else {}
        special = {name: _text_of(name, config.get(name)) for name in SPECIAL}
        path = directory / TEMPLATE
        is_own = path.exists()
        where = TEMPLATE if is_own else f"chat_template in {CONFIG}"
        source = _read_text(path) if is_own else _source(config.get("chat_template"))
        return cls(_compile(where, source), special) if source else None

    def render(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> str:
        """The conversation up to where the answer begins. Raises what templates raise: they are programs."""
        return str(self.compiled.render(messages=messages, tools=tools, add_generation_prompt=True, **self.special))


def _text_of(name: str, token: Any) -> str:
    if not isinstance(token, dict):
        return token or ""
    if not isinstance(token.get("content"), str):
        raise ValueError(f"{CONFIG}: {name} is {token!r:.80}, expected text or an object with content")
    return str(token["content"])


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text: {error}") from error


def _source(given: Any) -> str | None:
    """Of several named templates, the one that is called default."""
    if isinstance(given, list):
        named = (each for each in given if isinstance(each, dict) and each.get("name") == "default")
        given = next(named, {}).get("template")
    if given is not None and not isinstance(given, str):
        raise ValueError(f"{CONFIG}: chat_template is {type(given).__name__}, expected text or a list of named ones")
    return given


def _compile(where: str, source: str) -> Any:
    """The template in a sandbox, with what transformers offers to templates: they come with downloaded models.

    Nothing of it is worked out while it compiles (``optimized``): that may take for ever.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise BrokenTemplate(f"{where} does not compile: line {error.lineno}: {error.message}") from error
    except (TemplateError, SyntaxError, ValueError, RecursionError) as error:
        raise BrokenTemplate(f"{where} does not compile: {error}") from error


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
