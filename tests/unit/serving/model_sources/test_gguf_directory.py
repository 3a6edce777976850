"""A tiny Llama written as GGUF and read back: the same weights, the same tokens, the same logits."""

import json

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from serving.model_sources.gguf_directory import PER_LAYER, WHOLE, convert
from tests.unit.serving.tiny import SHAPE, make_target

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefgh0123", "Ġ", "ab", "cd", "abcd", "Ġab"]
MERGES = ["a b", "c d", "ab cd", "Ġ ab"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


def paired(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """As llama.cpp keeps queries and keys."""
    rows, columns = weight.shape
    return weight.reshape(num_heads, 2, rows // num_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Weights that bfloat16 holds exactly, so that nothing is lost on the way."""
    return make_target(tmp_path_factory.mktemp("model"), dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def writer_of():
    """Makes a GGUF file of a model; ``changes`` replace facts, and ``more`` adds a tensor of that name."""

    def write(path, model, more="", **changes):
        writer = gguf.GGUFWriter(path, changes.get("architecture", "llama"))
        writer.add_block_count(SHAPE["num_hidden_layers"])
        writer.add_context_length(SHAPE["max_position_embeddings"])
        writer.add_embedding_length(SHAPE["hidden_size"])
        writer.add_feed_forward_length(SHAPE["intermediate_size"])
        writer.add_head_count(SHAPE["num_attention_heads"])
        writer.add_head_count_kv(SHAPE["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
        writer.add_rope_freq_base(model.config.rope_parameters["rope_theta"])
        writer.add_tokenizer_model(changes.get("tokenizer", "gpt2"))
        writer.add_tokenizer_pre(changes.get("pre", "smollm"))
        writer.add_token_list(TOKENS + [f"<unused{i}>" for i in range(SHAPE["vocab_size"] - len(TOKENS))])
        writer.add_token_types([3, 3, 3] + [1] * (SHAPE["vocab_size"] - 3))
        writer.add_token_merges(MERGES)
        for add, token in (("bos", 1), ("eos", 2), ("unk", 0), ("pad", 2)):
            getattr(writer, f"add_{add}_token_id")(token)
        writer.add_chat_template(TEMPLATE)
        names = {to: own for own, to in WHOLE.items()}
        layers = {to: own for own, to in PER_LAYER.items()}
        for name, tensor in model.state_dict().items():
            values = tensor.float().numpy()
            base = name.removesuffix(".weight")
            if base in names:
                if base != "lm_head":  # tied
                    writer.add_tensor(f"{names[base]}.weight", values)
                continue
            _, _, index, part = base.split(".", 3)
            if part.endswith(("q_proj", "k_proj")):
                values = paired(values, SHAPE["num_attention_heads" if "q_proj" in part else "num_key_value_heads"])
            writer.add_tensor(f"blk.{index}.{layers[part]}.weight", np.ascontiguousarray(values))
        if more:
            writer.add_tensor(more, np.zeros((2, 2), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture(scope="module")
def folder(model, writer_of, tmp_path_factory):
    place = tmp_path_factory.mktemp("gguf")
    (place / "out").mkdir()
    convert(writer_of(place / "tiny.gguf", model), place / "out")
    return place / "out"


def test_transformers_gets_the_same_logits(model, folder):
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(40)[None] % SHAPE["vocab_size"]
    with torch.no_grad():
        expected = model(ids).logits
        assert float(expected.std()) > 0.5
        assert torch.equal(again(ids).logits, expected)


def test_tokens_are_merged_and_digits_stand_alone(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("abcd ab12<|im_end|>").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["abcd", "Ġab", "1", "2", "<|im_end|>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "abcd ab12"
    assert (
        tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], tokenize=False) == "<|im_start|>ab<|im_end|>"
    )


def test_the_config_says_how_a_text_ends(folder):
    for name in ("config.json", "generation_config.json"):
        assert json.loads((folder / name).read_text())["eos_token_id"] == 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architecture": "mamba"}, "general.architecture='mamba'"),
        ({"tokenizer": "llama"}, "tokenizer.ggml.model='llama'"),
        ({"pre": "gpt-4o"}, "tokenizer.ggml.pre='gpt-4o'"),
        ({"more": "blk.0.attn_sinks.weight"}, "blk.0.attn_sinks.weight"),
    ],
)
def test_what_cannot_be_converted_is_named(model, writer_of, tmp_path, changes, named):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=named):
        convert(writer_of(tmp_path / "x.gguf", model, **changes), tmp_path / "out")
