"""The trainer's pass over a target gives what an engine captures (docs/decisions/024)."""

import uuid

import pytest
import torch

from serving.model.attention import Span
from serving.model.decoder import Decoder
from tests.unit.serving.tiny import CONFIGS, make_target
from training_worker.config import TraceSource
from training_worker.target import Target

AUX = (1, 3, 4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_recomputed_states_are_those_that_the_engine_would_have_kept(tmp_path, kind):
    make_target(tmp_path, kind)
    tokens = torch.randint(0, 61, (41,), generator=torch.Generator().manual_seed(3)).tolist()
    source = TraceSource(uuid.uuid4().hex, "sql", tuple(tokens), 8, 0.0, (), "", 5, 3)
    features, final = Target(tmp_path).states(source, AUX)
    engine = Decoder(tmp_path, AUX, num_slots=1, max_len=64).forward(torch.tensor(tokens[:-1]), [Span(0, 0, 40)])
    for ours, theirs in ((features, engine.features[5:]), (final, engine.final[5:])):
        kept = theirs.half()  # as in a segment
        assert ours.shape == kept.shape
        assert (ours.float() - kept.float()).abs().max() < 1e-3 * float(kept.abs().max())
