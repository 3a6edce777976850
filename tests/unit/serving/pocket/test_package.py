"""The packaged target: small, exact to half a step of its scale, what transformers reads, and expanded once."""

import json
import shutil
from itertools import islice

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from serving.model.decoder import Decoder
from serving.pocket.corpus import DOMAINS
from serving.pocket.expand import PACKAGED, expand
from serving.pocket.model import Target, TargetShape
from serving.pocket.quantise import dequantise, pack, quantise, unpack
from serving.pocket.report import answer_loss, distinct_3gram_share, greedy
from serving.traffic.domains.base import as_request

MAX_BYTES = 2_000_000


def test_quantising_errs_by_half_a_step_at_most():
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    quantised, scale = quantise(weight)
    assert quantised.dtype == torch.int8
    assert ((dequantise(quantised, scale) - weight).abs() <= scale[:, None] / 2 + 1e-7).all()
    assert unpack(pack({"m": weight, "norm": weight[0]}))["norm"].equal(weight[0])


def test_the_package_is_small_enough_for_the_repository():
    assert sum(path.stat().st_size for path in PACKAGED.iterdir()) <= MAX_BYTES


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return expand(tmp_path_factory.mktemp("m") / "pocket")


@pytest.fixture(scope="module")
def tokenizer(target):
    return AutoTokenizer.from_pretrained(target)


def test_transformers_computes_the_same_logits_from_the_expansion(target, tokenizer):
    """In float32 the two differ by the order of their sums alone."""
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    ours = Target(TargetShape())
    ours.load_state_dict(load_file(target / "model.safetensors"))
    prompt = next(DOMAINS[1].prompts(5, "heldout"))
    ids = tokenizer(prompt.text + prompt.reference, return_tensors="pt").input_ids
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, ours(ids), atol=1e-3, rtol=1e-4)


def test_the_chat_template_asks_as_the_training_text_does(tokenizer):
    messages = [{"role": "user", "content": "How many?"}]
    asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == as_request("How many?")


def test_the_tokenizer_keeps_text_and_splits_numbers(tokenizer):
    ids = tokenizer.encode("Größe = 1975;\n")
    assert tokenizer.decode(ids) == "Größe = 1975;\n"
    assert [tokenizer.decode([i]) for i in ids][-6:-2] == ["1", "9", "7", "5"]


@pytest.mark.parametrize("domain", DOMAINS, ids=lambda domain: domain.name)
def test_it_has_learnt_its_domains(target, tokenizer, domain):
    """Right answers to held-out prompts, against a uniform guess of ln 1024 = 6.9 nats."""
    decoder = Decoder(target, (), 1, 512)
    prompts = islice(domain.prompts(5, "heldout"), 8)
    losses = [answer_loss(decoder, tokenizer.encode(p.text), tokenizer.encode(p.reference)) for p in prompts]
    assert sum(loss for loss, _ in losses) / sum(num for _, num in losses) < 0.5


def test_its_answers_end_and_keep_the_form_of_their_domain(target, tokenizer):
    prompts = [next(domain.prompts(5, "heldout")) for domain in DOMAINS]
    answers = greedy(target, [tokenizer.encode(prompt.text) for prompt in prompts], 160)
    assert [answer.finish_reason for answer in answers] == ["stop"] * len(DOMAINS)
    arithmetic, sql, json_tools = (
        tokenizer.decode(answer.tokens[answer.prompt_len :], skip_special_tokens=True) for answer in answers
    )
    assert arithmetic.splitlines()[-1].startswith("Answer: ")
    assert sql.startswith("```sql\n")
    assert all(call.keys() == {"name", "arguments"} for call in json.loads(json_tools))


def test_expanding_twice_changes_nothing(target):
    before = (target / "model.safetensors").stat().st_mtime_ns
    assert expand(target) == target
    assert (target / "model.safetensors").stat().st_mtime_ns == before


def test_an_expansion_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        expand(tmp_path / "pocket")
    assert list(tmp_path.iterdir()) == []


def test_a_new_package_replaces_the_expansion(tmp_path):
    package = shutil.copytree(PACKAGED, tmp_path / "package")
    folder = expand(tmp_path / "pocket", package)
    config = json.loads((package / "config.json").read_text())
    (package / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    expand(folder, package)
    assert json.loads((folder / "config.json").read_text())["max_position_embeddings"] == 512
    assert load_file(folder / "model.safetensors")


def test_a_directory_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="mine is not empty"):
        expand(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_distinct_3grams():
    assert distinct_3gram_share([[1, 2, 3, 4], [1, 2, 3]]) == pytest.approx(2 / 3)
    assert distinct_3gram_share([]) == 0.0
