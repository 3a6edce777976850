"""A tokenizer whose tokens are bytes."""

import json

import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from serving.http.tokenizer import TargetTokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """One token per byte, like those that models fall back on for rare characters."""
    folder = tmp_path_factory.mktemp("bytes")
    alphabet = sorted(ByteLevel.alphabet())
    bytewise = Tokenizer(BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    bytewise.pre_tokenizer, bytewise.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bytewise.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({}))
    return TargetTokenizer(folder)
