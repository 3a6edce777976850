"""The tokens of a new draft: counted, always with the ends, the same in every call."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from speculators.checkpoint import tensor_problems
from speculators.draft_config import DRAFT_VOCABULARY, LARGEST_FULL_VOCABULARY, DraftConfig
from speculators.eagle3 import Eagle3Draft
from tests.unit.serving.tiny import CONFIGS
from training_worker import vocabulary

NUM_TOKENS = 20_000
WORDS = ["return", "import", "self", "def", "the", "if"]  # what source code and its descriptions are full of
CONFIG = {"vocab_size": NUM_TOKENS, "eos_token_id": [19_990, 19_991], "bos_token_id": 19_992}


@pytest.fixture
def folder(tmp_path):
    """A target whose tokenizer has its frequent words at the end of the vocabulary."""
    names = [f"rare{i}" for i in range(NUM_TOKENS - len(WORDS) - 100)]
    names += WORDS + [f"end{i}" for i in range(100)]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="rare0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 19_993}))
    return tmp_path


def test_frequent_words_and_ends_are_among_them(folder):
    chosen = vocabulary.choose(folder, CONFIG, 512)
    words = {NUM_TOKENS - 100 - len(WORDS) + i for i in range(len(WORDS))}
    assert words | {19_990, 19_991, 19_992, 19_993} <= set(chosen.tolist())
    assert len(chosen) == 512
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert torch.equal(chosen, vocabulary.choose(folder, CONFIG, 512))


def test_without_a_tokenizer_the_first_ids_are_taken():
    chosen = vocabulary.choose(None, CONFIG, 100).tolist()
    assert chosen == [*range(97), 19_990, 19_991, 19_992]


def test_a_small_vocabulary_is_proposed_whole(tmp_path):
    assert vocabulary.choose(tmp_path, {"vocab_size": 300}, 300).tolist() == list(range(300))


@pytest.mark.parametrize(
    ("vocab_size", "expected"),
    [(61, 61), (LARGEST_FULL_VOCABULARY, LARGEST_FULL_VOCABULARY), (49_152, DRAFT_VOCABULARY)],
)
def test_a_draft_of_it_is_a_valid_checkpoint(vocab_size, expected):
    config = DraftConfig.for_target(CONFIGS["llama"]().to_dict() | {"vocab_size": vocab_size})
    assert config.draft_vocab_size == expected
    draft = Eagle3Draft(config)
    draft.take_vocabulary(vocabulary.choose(None, {"vocab_size": vocab_size, "eos_token_id": vocab_size - 1}, expected))
    assert tensor_problems(config, draft.state_dict()) == []
    assert int(draft.target_ids[-1]) == vocab_size - 1


def test_what_the_traffic_says_comes_in_and_what_nobody_says_goes(folder):
    counts = vocabulary.prior(folder, CONFIG)
    ids = vocabulary.most_frequent(counts, 512)
    assert torch.equal(ids, vocabulary.choose(folder, CONFIG, 512))
    assert vocabulary.better(counts, ids) is None
    said = list(range(9_000, 9_020))  # far behind what was chosen
    before = vocabulary.coverage(counts, ids)
    for _ in range(10):
        vocabulary.count(counts, said * 5, prompt_len=40)
    assert vocabulary.coverage(counts, ids) < 0.9 * before
    wanted = vocabulary.better(counts, ids)
    assert set(said) <= set(wanted.tolist())
    assert {19_990, 19_991, 19_992, 19_993} <= set(wanted.tolist())
    assert wanted.tolist() == sorted(set(wanted.tolist())) and len(wanted) == 512
    assert vocabulary.coverage(counts, wanted) > vocabulary.coverage(counts, ids) + 0.1
    assert vocabulary.better(counts, wanted) is None


def test_a_prompts_token_counts_less_and_an_old_one_is_forgotten():
    counts = torch.zeros(100, dtype=torch.float64)
    vocabulary.count(counts, [1, 2, 3], prompt_len=2)
    assert counts[[1, 2, 3]].tolist() == [vocabulary.PROMPT_WEIGHT, vocabulary.PROMPT_WEIGHT, 1.0]
    for _ in range(10):
        vocabulary.count(counts, [9] * int(vocabulary.HALF_LIFE / 10), prompt_len=0)
    assert counts[3].item() == pytest.approx(0.5)
