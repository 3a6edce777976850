"""A tiny target, and drafts for it: random ones, and one trained until it is often right."""

import json
import time

import pytest
import torch

from serving.engine.stepper import Stepper
from speculators import checkpoint
from speculators.draft_config import DraftConfig
from speculators.eagle3 import Eagle3Draft
from tests.unit.serving.tiny import make_draft, make_target


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """(folder, transformers model)."""
    folder = tmp_path_factory.mktemp("target")
    return folder, make_target(folder)


@pytest.fixture(scope="session")
def tiny_config(tiny):
    return json.loads((tiny[0] / "config.json").read_text())


@pytest.fixture(scope="session")
def garbage(tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drafts") / "garbage"
    make_draft(folder, tiny_config, seed=3)
    return folder


@pytest.fixture(scope="session")
def small_vocabulary(tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drafts") / "small"
    make_draft(folder, tiny_config, seed=4, vocab=20)
    return folder


@pytest.fixture(scope="session")
def good(tiny, tiny_config, tmp_path_factory):
    """Trained with teacher forcing on the target's own samples, so that several drafts in a row pass."""
    model = tiny[1]
    config = DraftConfig.for_target(tiny_config)
    torch.manual_seed(0)
    draft = Eagle3Draft(config)
    with torch.no_grad():
        ids = model.generate(torch.randint(0, 60, (32, 4)), do_sample=True, max_new_tokens=60, min_new_tokens=60)
        hidden = model(ids, output_hidden_states=True).hidden_states
        features = torch.cat([hidden[i + 1] for i in config.aux_layer_ids], -1)[:, :-1]
        teacher = torch.softmax(model(ids).logits, -1)[:, 1:]
        embeds = model.get_input_embeddings()(ids)[:, 1:]
    optimiser = torch.optim.AdamW(draft.parameters(), lr=6e-3)
    positions = torch.arange(features.shape[1]).expand(len(ids), -1)
    for _ in range(200):
        logits, _ = draft(embeds, draft.fuse(features), positions)
        loss = -(teacher * torch.log_softmax(logits, -1)).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    folder = tmp_path_factory.mktemp("drafts") / "good"
    checkpoint.save(folder, config, draft.state_dict())
    return folder


@pytest.fixture
def slow_steps(monkeypatch):
    """A request of many tokens is still running when the test's next line is."""
    honest = Stepper.verify

    def verify(self, group, proposals):
        time.sleep(0.02)
        return honest(self, group, proposals)

    monkeypatch.setattr(Stepper, "verify", verify)
