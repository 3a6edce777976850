"""SGLang's own rule about LoRA adapters beside the control, which switches the number of draft steps as it does."""

from __future__ import annotations

import json
import os
import subprocess

from tests.sglang.server import DEVICE, ENVIRONMENT, PYTHON

ASK = """
import json
from types import SimpleNamespace

from sglang.srt.arg_groups.lora_hook import check_lora_speculative_compatibility

from serving.sglang_backend.control import why_none

given = {"speculative_algorithm": "EAGLE3", "speculative_eagle_topk": 1, "moe_runner_backend": "auto"}
given |= dict.fromkeys(["speculative_moe_runner_backend", "lora_paths"])
given |= dict.fromkeys(["enable_dp_attention", "enable_multi_layer_eagle", "enable_two_batch_overlap", "enable_pdmux"])


def refusal(is_adaptive):
    try:
        check_lora_speculative_compatibility(SimpleNamespace(**given, speculative_adaptive=is_adaptive))
    except ValueError as error:
        return str(error)
    return ""


ours = [why_none(SimpleNamespace(**given, enable_lora=enable_lora)) for enable_lora in (None, True)]
print(json.dumps([refusal(False), refusal(True), *ours]))
"""


def test_sglang_serves_adapters_with_drafts_and_refuses_to_switch_draft_steps_beside_them_as_we_do():
    environment = {**os.environ, **ENVIRONMENT[DEVICE], "PYTHONPATH": ""}
    asked = subprocess.run([str(PYTHON), "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    plain, adaptive, ours_without, ours_with = json.loads(asked.stdout.splitlines()[-1])
    assert plain == ours_without == ""
    assert "does not support --speculative-adaptive" in adaptive
    assert ours_with.startswith("adapters (--enable-lora) exclude it")
