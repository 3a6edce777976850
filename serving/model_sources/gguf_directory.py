"""A Hugging Face directory from a GGUF file of a Llama with a byte-level BPE tokenizer.

Values are what the file's quantised blocks stand for, rounded to bfloat16. GGUF keeps the rows of ``q_proj`` and
``k_proj`` with each head's rotary pairs side by side; transformers wants the two halves of a head one after the other.
Layout: the ``gguf`` package (github.com/ggml-org/llama.cpp), ``convert_hf_to_gguf.py`` read backwards.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

CONTROL, USER_DEFINED = 3, 4  # token types that are never made by merges
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
PER_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
SMOLLM_DIGITS = "smollm"  # the pre-tokenizer that splits numbers into digits, then words as GPT-2 does


def convert(path: Path, folder: Path) -> None:
    """Write config, tokenizer and ``model.safetensors`` into ``folder``.

    Raises ValueError for another architecture, tokenizer or tensor than is known here.
    """
    reader = gguf.GGUFReader(path)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    for name, expected in (("general.architecture", "llama"), ("tokenizer.ggml.model", "gpt2")):
        if facts.get(name) != expected:
            raise ValueError(f"{path}: {name}={facts.get(name)!r}: only {expected!r} can be converted")
    config = _config(facts)
    state = dict(_tensor(each, config) for each in reader.tensors)
    config["tie_word_embeddings"] = "lm_head.weight" not in state
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    _write_json(folder / "config.json", config)
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", ends)
    _tokenizer(facts).save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(facts, config))


def _config(facts: dict[str, Any]) -> dict[str, Any]:
    heads, hidden = facts["llama.attention.head_count"], facts["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": facts.get("llama.attention.head_count_kv", heads),
        "head_dim": facts.get("llama.rope.dimension_count", hidden // heads),
        "vocab_size": len(facts["tokenizer.ggml.tokens"]),
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": float(f"{facts['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # stored as a 32-bit float
        "rope_theta": facts.get("llama.rope.freq_base", 10000.0),
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "bfloat16",
    }


def _tensor(given: gguf.ReaderTensor, config: dict[str, Any]) -> tuple[str, Tensor]:
    """Name and bfloat16 values as transformers has them."""
    values: NDArray[np.float32] = gguf.dequantize(given.data, given.tensor_type)
    layer = LAYER.fullmatch(given.name)
    whole, part = given.name.removesuffix(".weight"), layer[2] if layer else ""
    if layer and part in PER_LAYER:
        name = f"model.layers.{layer[1]}.{PER_LAYER[part]}.weight"
    elif whole in WHOLE:
        name = f"{WHOLE[whole]}.weight"
    else:
        raise ValueError(f"tensor {given.name!r} is none of a Llama's: {', '.join((*WHOLE, *PER_LAYER))}")
    if part == "attn_q":
        values = _unpaired(values, config["num_attention_heads"])
    elif part == "attn_k":
        values = _unpaired(values, config["num_key_value_heads"])
    return name, torch.from_numpy(np.array(values)).to(torch.bfloat16)


def _unpaired(values: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Rows [heads * pairs * 2, C] with pairs side by side -> the two halves of each head one after the other."""
    rows, columns = values.shape
    return values.reshape(num_heads, rows // num_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(facts: dict[str, Any]) -> Tokenizer:
    """Byte-level BPE with the file's vocabulary and merges."""
    if facts.get("tokenizer.ggml.pre") != SMOLLM_DIGITS:
        found = facts.get("tokenizer.ggml.pre")
        raise ValueError(f"tokenizer.ggml.pre={found!r}: only {SMOLLM_DIGITS!r} can be converted")
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = facts["tokenizer.ggml.token_type"]
    for kind, add in ((CONTROL, tokenizer.add_special_tokens), (USER_DEFINED, tokenizer.add_tokens)):
        add([AddedToken(token, normalized=False) for token, its in zip(tokens, kinds, strict=True) if its == kind])
    return tokenizer


def _tokenizer_config(facts: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    tokens = facts["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[config["bos_token_id"]],
        "eos_token": tokens[config["eos_token_id"]],
        "pad_token": tokens[config["pad_token_id"]],
        "unk_token": tokens[facts["tokenizer.ggml.unknown_token_id"]],
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "chat_template": facts["tokenizer.chat_template"],
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
