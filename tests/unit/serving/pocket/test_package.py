"""The packaged target: small, exact to half a step of its scale, and expanded once."""

import json
import shutil
from itertools import islice

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from serving.model.decoder import Decoder
from serving.pocket.expand import PACKAGED, expand
from serving.pocket.quantise import dequantise, pack, quantise, unpack
from serving.pocket.report import answer_loss, distinct_3gram_share
from serving.traffic.domains.registry import get_domain


def test_quantising_errs_by_half_a_step_at_most():
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    quantised, scale = quantise(weight)
    assert quantised.dtype == torch.int8
    assert ((dequantise(quantised, scale) - weight).abs() <= scale[:, None] / 2 + 1e-7).all()
    assert unpack(pack({"m": weight, "norm": weight[0]}))["norm"].equal(weight[0])


def test_the_package_is_small_enough_to_ship():
    assert sum(path.stat().st_size for path in PACKAGED.iterdir()) < 25_000_000


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return expand(tmp_path_factory.mktemp("m") / "demo")


def test_transformers_reads_the_expansion(demo):
    tokenizer = AutoTokenizer.from_pretrained(demo)
    model = AutoModelForCausalLM.from_pretrained(demo)
    ids = tokenizer("SELECT name FROM", return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]).endswith("SELECT name FROM")
    assert model(ids).logits.shape[-1] == model.config.vocab_size == 4096


@pytest.mark.parametrize("domain", ["arithmetic", "sql", "json_tools"])
def test_it_has_learnt_its_domains(demo, domain):
    """Right answers to held-out prompts, against a uniform guess of ln 4096 = 8.3 nats."""
    tokenizer = AutoTokenizer.from_pretrained(demo)
    decoder = Decoder(demo, (), 1, 512)
    prompts = islice(get_domain(domain).prompts(5, "heldout"), 8)
    losses = [answer_loss(decoder, tokenizer.encode(p.text), tokenizer.encode(p.reference)) for p in prompts]
    assert sum(loss for loss, _ in losses) / sum(num for _, num in losses) < 1.0


def test_expanding_twice_changes_nothing(demo):
    before = (demo / "model.safetensors").stat().st_mtime_ns
    assert expand(demo) == demo
    assert (demo / "model.safetensors").stat().st_mtime_ns == before


def test_a_new_package_replaces_the_expansion(tmp_path):
    package = shutil.copytree(PACKAGED, tmp_path / "package")
    folder = expand(tmp_path / "demo", package)
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
