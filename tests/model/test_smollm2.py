"""A real LLM through the engine: transformers' logits, its own chat template, greedy text that speculation keeps."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from serving.http.tokenizer import TargetTokenizer
from serving.model.attention import Span
from serving.model.decoder import Decoder
from speculators import checkpoint
from speculators.draft_config import DRAFT_VOCABULARY, DraftConfig
from speculators.eagle3 import Eagle3Draft
from tests.unit.serving.engine.running import engine_of, output, submit
from training_worker import vocabulary

TOLERANCE = 1e-4  # of the largest logit
TIE_MARGIN = 1e-4
NUM_TOKENS = 32
QUESTIONS = [
    "What is the capital of France?",
    "Write a Python function that returns the greatest common divisor of two numbers.",
    "Table orders(id, customer, total). Write an SQL query for the three customers with the highest totals.",
    "Give name and age as JSON: Ada is 36 years old.",
]


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


@pytest.fixture(scope="session")
def model(smollm2):
    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def prompts(smollm2):
    tokenizer = TargetTokenizer(smollm2)
    return [tokenizer.encode_chat(asked(question)) for question in QUESTIONS]


@pytest.fixture(scope="session")
def drafts(smollm2, tmp_path_factory):
    """Random weights over the vocabulary that is counted here."""
    config = json.loads((smollm2 / "config.json").read_text())
    shape = DraftConfig.for_target(config)
    draft = Eagle3Draft(shape, seed=1)
    draft.take_vocabulary(vocabulary.choose(smollm2, config, shape.draft_vocab_size))
    folder = tmp_path_factory.mktemp("draft")
    checkpoint.save(folder / "random", shape, draft.state_dict())
    return folder


def test_logits_equal_those_of_transformers(smollm2, model, prompts):
    decoder = Decoder(smollm2, (1, 14, 26), 1, 512)
    for ids in prompts:
        with torch.no_grad():
            expected = model(torch.tensor([ids]), output_hidden_states=True)
        states = decoder.forward(torch.tensor(ids), [Span(0, 0, len(ids))])
        logits = decoder.logits(states.final)
        assert (logits - expected.logits[0]).abs().max() < TOLERANCE * float(expected.logits.abs().max())
        layers = torch.cat([expected.hidden_states[i + 1][0] for i in (1, 14, 26)], -1)
        assert (states.features - layers).abs().max() < TOLERANCE * float(layers.abs().max())


def test_the_chat_template_is_the_model_s_own(smollm2, prompts):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    for question, ids in zip(QUESTIONS, prompts, strict=True):
        text = tokenizer.apply_chat_template(asked(question), tokenize=False, add_generation_prompt=True)
        assert list(ids) == tokenizer(text, add_special_tokens=False).input_ids
        assert text.endswith(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")


@pytest.fixture(scope="session")
def plain(model, prompts):
    """Greedy tokens of transformers and their top-2 margins, by prompt."""
    return {ids: plain_greedy(model, ids) for ids in prompts}


def plain_greedy(model, ids):
    answer = model.generate(
        torch.tensor([ids]),
        max_new_tokens=NUM_TOKENS,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    tops = [scores[0].topk(2).values for scores in answer.scores]
    return answer.sequences[0, len(ids) :].tolist(), [float(top[0] - top[1]) for top in tops]


@pytest.mark.parametrize("lookahead", [0, 4])
def test_greedy_text_is_that_of_transformers_with_a_random_draft(smollm2, plain, prompts, drafts, lookahead):
    with engine_of(smollm2, fixed_lookahead=lookahead, max_len=512) as engine:
        engine.swap(1, engine.load_draft(drafts / "random")).result(60)
        waiters = [submit(engine, ids, max_tokens=NUM_TOKENS) for ids in prompts]
        finished = [waiter.result(600) for waiter in waiters]
    for each, ids in zip(finished, prompts, strict=True):
        tokens, margins = plain[ids]
        got = output(each)
        first = next((i for i, (a, b) in enumerate(zip(got, tokens, strict=False)) if a != b), None)
        assert got == tokens or (first is not None and margins[first] < TIE_MARGIN)
        assert sum(len(step.proposed) for step in each.steps) > 0 or lookahead == 0


def test_it_answers(smollm2, prompts):
    with engine_of(smollm2, fixed_lookahead=0, max_len=512) as engine:
        capital = submit(engine, prompts[0], max_tokens=NUM_TOKENS).result(600)
    assert "Paris" in TargetTokenizer(smollm2).decode(output(capital))
    assert capital.finish_reason == "stop"


def test_a_draft_can_say_most_of_what_it_writes(smollm2, plain):
    """The vocabulary was counted on this machine's text, not on the model's."""
    config = json.loads((smollm2 / "config.json").read_text())
    chosen = set(vocabulary.choose(smollm2, config, DRAFT_VOCABULARY).tolist())
    written = [token for tokens, _ in plain.values() for token in tokens]
    assert sum(token in chosen for token in written) / len(written) > 0.8
    assert 2 in chosen, "the end of an answer"
