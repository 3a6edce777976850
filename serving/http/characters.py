"""How many tokens a text has at least, told by its characters alone: what cannot fit is refused before it is tokenised.

What fits must never be refused, so there is a bound only where each part of the tokenizer is known to keep characters:

- The model is BPE, where a token stands for as many characters as its own text has, or for fewer, and it is known which
  characters are in no token. With byte fallback, or an unknown token for each, all are in one; at byte level all whose
  bytes are in the vocabulary (SmolLM2's lacks some control characters). Others may make one token of any number of
  unknown characters, or, like WordPiece, of a whole word.
- A normaliser that only writes one character as others, or composes: Unicode's canonical composition makes one
  character of four at most (U+1F82), and changes no ASCII. Whatever strips, or replaces by less, has no bound.
- A pre-tokenizer that splits and keeps what it splits at.
- Added tokens may take in the spaces beside them (lstrip, rstrip): then no space counts. Tokens that are added to every
  text only make it longer.
- A tokenizer that truncates lets everything fit.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Self

from tokenizers import Tokenizer
from tokenizers.models import BPE

COMPOSED = 4
CONTINUING = range(0x80, 0xC0)  # bytes: each character beyond ASCII has one
SPACES = [chr(code) for code in range(0x3001) if chr(code).isspace()]  # U+3000 is the last one


@dataclass(frozen=True, slots=True)
class CharacterBound:
    """What one token may stand for."""

    longest: int  # characters after normalisation
    composed: int = 1  # characters that normalisation makes one of
    composed_ascii: int = 1  # the same in a text of ASCII alone
    uncounted: str = ""  # characters that may be in no token

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self | None:
        """None where any text might be one token."""
        normaliser, splitter = _state(tokenizer.normalizer), _state(tokenizer.pre_tokenizer)
        composed = _composed(normaliser)
        if composed is None or tokenizer.truncation is not None or not _keeps_all(splitter):
            return None
        vocab = tokenizer.get_vocab(with_added_tokens=False)
        dropped = _dropped(tokenizer.model, vocab, splitter)
        if dropped is None:
            return None
        added = tokenizer.get_added_tokens_decoder().values()
        normalise = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
        texts = [*vocab, *(token.content for token in added), *(normalise(token.content) for token in added)]
        is_alone = normaliser is not None and normaliser["type"] in ("NFC", "NFKC")
        uncounted = dropped.union(SPACES) if any(token.lstrip or token.rstrip for token in added) else dropped
        return cls(max(map(len, texts), default=1), composed, 1 if is_alone else composed, "".join(sorted(uncounted)))

    def least_tokens(self, text: str) -> int:
        """No tokenisation of the text has fewer."""
        num = len(text) - sum(map(text.count, self.uncounted))
        return -(-num // (self.longest * (self.composed_ascii if text.isascii() else self.composed)))


def _state(part: Any) -> dict[str, Any] | None:
    """Of a normaliser or pre-tokenizer: what tokenizer.json says of it; None where there is none."""
    return None if part is None else json.loads(part.__getstate__())


def _composed(normaliser: dict[str, Any] | None) -> int | None:
    """How many characters a normaliser makes one of, at most; None where that is not known."""
    match normaliser:
        case None | {"type": "NFD" | "NFKD" | "Lowercase" | "Prepend"}:
            return 1
        case {"type": "NFC" | "NFKC"}:
            return COMPOSED
        case {"type": "Replace", "pattern": {"String": pattern}, "content": content}:
            return 1 if len(content) >= len(pattern) else None
        case {"type": "Sequence", "normalizers": parts}:
            known = [composed for part in parts if (composed := _composed(part)) is not None]
            return math.prod(known) if len(known) == len(parts) else None
    return None


def _keeps_all(splitter: dict[str, Any] | None) -> bool:
    """Whether a pre-tokenizer keeps every character."""
    match splitter:
        case None | {"type": "ByteLevel" | "Digits" | "Metaspace"}:
            return True
        case {"type": "Split" | "Punctuation", "behavior": behavior}:
            return bool(behavior != "Removed")
        case {"type": "Sequence", "pretokenizers": parts}:
            return all(map(_keeps_all, parts))
    return False


def _dropped(model: Any, vocab: dict[str, int], splitter: dict[str, Any] | None) -> set[str] | None:
    """The characters that come to be in no token; None where that is not known."""
    if not isinstance(model, BPE) or model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    is_each_a_token = model.unk_token is not None and not model.fuse_unk
    if is_each_a_token or (model.byte_fallback and all(f"<0x{byte:02X}>" in vocab for byte in range(256))):
        return set()
    letters = _letters()
    if not _is_byte_level(splitter) or not all(letters[byte] in vocab for byte in CONTINUING):
        return None
    return {chr(byte) for byte in range(128) if letters[byte] not in vocab}


def _is_byte_level(splitter: dict[str, Any] | None) -> bool:
    """Whether a model is given the letters of bytes."""
    last = splitter
    while last is not None and last["type"] == "Sequence":
        last = last["pretokenizers"][-1] if last["pretokenizers"] else None
    return last is not None and last["type"] == "ByteLevel"


def _letters() -> dict[int, str]:
    """What byte-level vocabularies write for each byte, as GPT-2's does."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return {byte: chr(byte if byte in shown else next(others)) for byte in range(256)}
