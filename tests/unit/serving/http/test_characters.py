"""A text that fits is never refused for its characters, whatever the tokenizer; one that cannot fit mostly is."""

import random

import pytest
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.normalizers import NFC, NFKC, Lowercase, Prepend, Replace, Strip
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Metaspace, Split, WhitespaceSplit
from tokenizers.pre_tokenizers import Sequence as Splitters

from serving.http.characters import CharacterBound
from serving.pocket.expand import PACKAGED

ALPHABET = sorted(ByteLevel.alphabet())
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
COMPOSING = ["é", "e\u0301", "α\u0313\u0300\u0345", "\u1f82", "한", "ﷺ"]
PIECES = [*COMPOSING, "a", "b", "ab" * 9, " ", "  \n\u3000", "7", "\x04", "🙂", "<end>"]


def tokenizer_of(model, normalizer=None, splitter=None, **added):
    found = Tokenizer(model)
    if normalizer is not None:
        found.normalizer = normalizer
    if splitter is not None:
        found.pre_tokenizer = splitter
    if added:
        found.add_special_tokens([AddedToken("<end>", **added)])
    return found


def bpe(letters, words=(), **given):
    """Of single letters, and of words whose letters are merged one by one."""
    vocab = {letter: number for number, letter in enumerate(letters)}
    merges = {}
    for word in words:
        for end in range(2, len(word) + 1):
            merges[word[: end - 1], word[end - 1]] = None
            vocab.setdefault(word[:end], len(vocab))
    return BPE(vocab, list(merges), **given)


def llama(**added):
    """As SentencePiece's tokenizers are written: bytes for unknown letters."""
    model = bpe([*BYTES, *"ab▁"], ["abababab"], byte_fallback=True, unk_token="<0x00>", fuse_unk=True)
    return tokenizer_of(model, Normalizers([Prepend("▁"), Replace(" ", "▁")]), **added)


BOUNDED = {
    "pocket": lambda: Tokenizer.from_file(str(PACKAGED / "tokenizer.json")),
    "bytes": lambda: tokenizer_of(bpe(ALPHABET, ["abab"]), splitter=ByteLevel(add_prefix_space=False)),
    "composed": lambda: tokenizer_of(
        bpe(ALPHABET), NFC(), Splitters([Split(Regex(r"\w+"), "isolated"), Digits(), ByteLevel()])
    ),
    "characters": lambda: tokenizer_of(bpe("u\u1f82é", unk_token="u"), Normalizers([NFKC(), Lowercase()])),
    "without a byte": lambda: tokenizer_of(bpe([c for c in ALPHABET if c != "Ą"], ["aba"]), splitter=ByteLevel()),
    "llama": llama,
    "special tokens": lambda: llama(lstrip=True, rstrip=True, normalized=False),
    "normalised ones": lambda: llama(normalized=True),
    "marked spaces": lambda: tokenizer_of(bpe([*BYTES, *"ab▁"], byte_fallback=True), splitter=Metaspace()),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_no_text_has_fewer_tokens_than_its_characters_tell(name):
    tokenizer, source = BOUNDED[name](), random.Random(7)
    bound = CharacterBound.of(tokenizer)
    assert bound is not None
    for _ in range(300):
        chosen = source.sample(PIECES, source.randint(1, 3))
        text = "".join(source.choices(chosen, k=source.randint(0, 60)))
        assert bound.least_tokens(text) <= len(tokenizer.encode(text, add_special_tokens=False).ids), repr(text)
    assert bound.least_tokens("b" * 100_000) > 1000


def test_the_bound_is_reached():
    tokenizer = BOUNDED["characters"]()
    bound = CharacterBound.of(tokenizer)
    for text, num in (("α\u0313\u0300\u0345" * 50, 50), ("b" * 50, 13)):
        assert bound.least_tokens(text) == num <= len(tokenizer.encode(text).ids)
    assert CharacterBound.of(BOUNDED["bytes"]()).least_tokens("abab" * 50) == 50
    assert CharacterBound.of(BOUNDED["composed"]()).least_tokens("b" * 50) == 50, "ASCII is composed of nothing"


def truncating():
    found = BOUNDED["bytes"]()
    found.enable_truncation(8)
    return found


@pytest.mark.parametrize(
    "make",
    [
        truncating,
        lambda: tokenizer_of(bpe("a", unk_token="a", fuse_unk=True)),  # any number of unknown letters is one token
        lambda: tokenizer_of(bpe("a")),  # none of them is
        lambda: tokenizer_of(bpe([*BYTES[:200], "a"], byte_fallback=True)),
        lambda: tokenizer_of(bpe(ALPHABET, end_of_word_suffix="w"), splitter=ByteLevel()),
        lambda: tokenizer_of(bpe([c for c in ALPHABET if c != "Ģ"]), splitter=ByteLevel()),
        lambda: tokenizer_of(bpe(ALPHABET), splitter=Splitters([ByteLevel(), Digits()])),
        lambda: tokenizer_of(WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")),
        lambda: tokenizer_of(Unigram([("<unk>", 0.0), ("a", -1.0)], 0, byte_fallback=False)),
        lambda: tokenizer_of(bpe(ALPHABET), splitter=Splitters([WhitespaceSplit(), ByteLevel()])),
        lambda: tokenizer_of(bpe(ALPHABET), splitter=Splitters([Split(" ", "removed"), ByteLevel()])),
        lambda: tokenizer_of(bpe(ALPHABET), Strip(), ByteLevel()),
        lambda: tokenizer_of(bpe(ALPHABET), Replace(Regex(" +"), " "), ByteLevel()),
        lambda: tokenizer_of(bpe(ALPHABET), Normalizers([NFC(), Replace("aa", "b")]), ByteLevel()),
    ],
)
def test_where_characters_may_go_away_nothing_is_told(make):
    assert CharacterBound.of(make()) is None
