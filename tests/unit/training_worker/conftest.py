"""A tiny target on disk and traces of it as an engine would have left them."""

import random
import uuid

import pytest
import torch
from safetensors.torch import save_file

from speculators.records import StepRecord
from tests.unit.serving.tiny import make_target
from training_worker.config import TraceSource
from training_worker.target import Target

AUX = (1, 3, 4)


@pytest.fixture(scope="session")
def target_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("target")
    make_target(folder)
    return folder


@pytest.fixture(scope="session")
def target(target_dir):
    return Target(target_dir)


@pytest.fixture(scope="session")
def traces(target, tmp_path_factory):
    """traces(n, domain, temperature): sources with real states in one segment file."""
    folder = tmp_path_factory.mktemp("segments")

    def make(num, domain="sql", temperature=0.0, seed=0):
        rng = random.Random(f"{domain}{seed}")
        path = folder / f"{uuid.uuid4().hex}.safetensors"
        sources, tensors = [], {}
        for _ in range(num):
            prompt = [rng.randrange(60) for _ in range(rng.randrange(3, 9))]
            with torch.no_grad():
                ids = target._model.generate(
                    torch.tensor([prompt]), max_new_tokens=20, min_new_tokens=20, do_sample=False
                )[0].tolist()
            source = TraceSource(
                trace_id=uuid.UUID(int=rng.getrandbits(128)).hex,
                domain=domain,
                tokens=tuple(ids),
                prompt_len=len(prompt),
                temperature=temperature,
                steps=tuple(StepRecord((), 0) for _ in range(19)),
                segment_uri=str(path),
                first_state=0,
                lookahead=3,
                aux_layer_ids=AUX,
            )
            features, final = target.states(source, AUX)
            tensors[f"{source.trace_id}.states"], tensors[f"{source.trace_id}.final"] = features, final
            sources.append(source)
        save_file(tensors, path)
        return sources

    return make
