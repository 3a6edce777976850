"""Training the pocket target: examples that repeat, and a run that goes on where it was killed."""

import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer

from serving.pocket.corpus import DOMAINS, TRAINING_SEED, Example, example
from serving.pocket.quantise import PACKAGED, TOKENIZER_FILES
from serving.pocket.tokenizer import EOS_ID
from serving.pocket.train import Run, TrainConfig, as_batch


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(PACKAGED / "tokenizer.json"))


def make_run(folder):
    """A run of few short examples with the packaged tokenizer."""
    folder.mkdir(exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(PACKAGED / name, folder / name)
    return Run(TrainConfig(folder, minutes=1.0, max_tokens=96, examples_per_step=3))


def test_an_example_is_of_its_split_and_always_the_same(tokenizer):
    domain = DOMAINS[0]
    first = next(domain.prompts(TRAINING_SEED + 3, "heldout"))
    made = example(tokenizer, domain, "heldout", 3)
    assert tokenizer.decode(made.question) == first.text
    assert tokenizer.decode(made.answer) == first.reference
    assert made.answer[-1] == EOS_ID
    assert made == example(tokenizer, domain, "heldout", 3)
    assert made != example(tokenizer, domain, "train", 3)


def test_a_batch_weighs_answers_and_no_padding():
    ids, weights = as_batch([Example([5, 6], [7, EOS_ID]), Example([5, 6, 7], [8, 9, EOS_ID])], 0.25, max_tokens=5)
    assert ids.tolist() == [[5, 6, 7, EOS_ID, EOS_ID], [5, 6, 7, 8, 9]]
    assert weights.tolist() == [[0.25, 0.25, 1, 1, 0], [0.25, 0.25, 0.25, 1, 1]]


def test_a_resumed_run_goes_on_like_an_unbroken_one(tmp_path):
    unbroken = make_run(tmp_path / "unbroken")
    for _ in range(3):
        unbroken.step()
    killed = make_run(tmp_path / "killed")
    killed.step()
    killed.save()
    killed.step()  # lost
    resumed = make_run(tmp_path / "killed")
    assert resumed.progress.step == 1
    for _ in range(2):
        resumed.step()
    for name, parameter in unbroken.target.state_dict().items():
        assert torch.equal(parameter, resumed.target.state_dict()[name]), name


def test_losses_fall_and_are_logged(tmp_path):
    run = make_run(tmp_path / "run")
    before = run.heldout_losses(2)
    for _ in range(20):
        run.step()
    after = run.heldout_losses(2)
    assert all(after[domain.name] < before[domain.name] for domain in DOMAINS)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20]
    assert lines[1]["loss"] < lines[0]["loss"]
