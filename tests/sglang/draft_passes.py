"""A plugin of SGLang's that keeps what goes into its draft at each prefill, and the logits of SGLang's own head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.bench.ring import wait_for
from tests.sglang.server import with_plugin

PLUGIN = """
import itertools
import os


def activate():
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register("sglang.srt.models.llama_eagle3.LlamaForCausalLMEagle3.forward", after, HookType.AFTER)


numbers = itertools.count()


def after(result, model, input_ids, positions, forward_batch, *more, **named):
    import torch

    hidden = forward_batch.spec_info.hidden_states
    if hidden.shape[-1] == model.model.fc.in_features:  # a prefill: rows come from the target
        kept = {"input_ids": input_ids, "positions": positions, "hidden_states": hidden}
        kept["logits"] = result.next_token_logits  # by SGLang's head and logits processor, of each request's last row
        path = os.path.join(FOLDER, f"{next(numbers):05d}.pt")
        torch.save({name: tensor.clone().cpu() for name, tensor in kept.items()}, path + ".part")
        os.rename(path + ".part", path)
"""


class DraftPasses:
    """``path`` goes into a server's PYTHONPATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "passes"
        self.folder.mkdir()
        self.path = with_plugin(folder / "plugin", f"FOLDER = {str(self.folder)!r}\n{PLUGIN}")

    def of(self, prompt: list[int]) -> dict[str, torch.Tensor]:
        """The pass over a prompt that was read from its beginning: the draft sees its tokens one place earlier."""

        def found() -> dict[str, torch.Tensor] | None:
            for path in sorted(self.folder.glob("*.pt")):
                seen = torch.load(path)
                if seen["input_ids"][:-1].tolist() == prompt[1:] and int(seen["positions"][0]) == 0:
                    return seen
            return None

        seen: dict[str, Any] = wait_for("a recorded pass", found, 60)
        return seen
