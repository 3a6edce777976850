"""Tiny random checkpoints of the architectures that the embedded engine serves, made with transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from speculators import checkpoint
from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft

SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "eos_token_id": 60,
    "bos_token_id": 60,
    "pad_token_id": 60,
}
CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama-untied-biased": lambda: LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "llama-linear-rope": lambda: LlamaConfig(
        **SHAPE, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    ),
    "llama-3.1-rope": lambda: LlamaConfig(
        **SHAPE,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=16),
}


def make_target(
    folder: Path, kind: str = "llama", *, sharpness: float = 8.0, dtype: torch.dtype = torch.float32
) -> Any:
    """Save a random model and return it; ``sharpness`` scales the weights so that the logits are not flat."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(CONFIGS[kind]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(sharpness)
    model.to(dtype).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def make_checkpoint(folder: Path) -> Path:
    """A directory that passes the console's checks of a model: tiny weights, a tokenizer and a chat template."""
    make_target(folder)
    Tokenizer(WordLevel({f"w{i}": i for i in range(61)}, unk_token="w0")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages[0].content }}"}')
    return folder


def make_draft(folder: Path, target_config: dict[str, Any], seed: int, vocab: int | None = None) -> str:
    """Save a random draft; returns its sha256. ``vocab`` cuts its vocabulary to every n-th target id."""
    config = DraftConfig.for_target(target_config)
    if vocab is None:
        return checkpoint.save(folder, config, Eagle3Draft(config, seed).state_dict())
    config = replace(config, draft_vocab_size=vocab)
    draft = Eagle3Draft(config, seed)
    ids = torch.arange(vocab) * (config.vocab_size // vocab)
    draft.d2t.copy_(ids - torch.arange(vocab))
    draft.t2d.zero_()
    draft.t2d[ids] = True
    return checkpoint.save(folder, config, draft.state_dict())
