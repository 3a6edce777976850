"""What a trace is loaded for decides what the target is asked."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from speculators.eagle3 import DraftConfig
from training_worker import segments
from training_worker.batches import make_batch
from training_worker.segments import Examples
from training_worker.target import EVERYTHING, Target, Use
from training_worker.trainer import Recipe, Trainer

AUX = (1, 3, 4)


@pytest.fixture
def sources(traces):
    return traces(4, temperature=0.7, seed=21)


def loaded(target, sources, use):
    examples, missing = Examples(target, AUX).load(sources, use)
    assert not missing
    return examples


def test_a_held_out_trace_has_what_it_is_compared_with_and_no_teacher(target, sources):
    for held_out, whole in zip(loaded(target, sources, Use.REPLAY), loaded(target, sources, EVERYTHING), strict=True):
        assert held_out.teacher.ids.shape == held_out.teacher.probs.shape == (held_out.num_positions, 0)
        assert torch.equal(held_out.emitted, whole.emitted)
        assert bool((held_out.emitted[held_out.first_base :] < 1).any())


def test_a_trace_to_learn_from_has_a_teacher_where_an_engine_drafts(target, sources):
    for learnt, whole in zip(loaded(target, sources, Use.GENERATED), loaded(target, sources, EVERYTHING), strict=True):
        first = learnt.first_base
        assert first > 0
        assert bool((learnt.teacher.probs[:first] == 0).all())
        assert torch.allclose(learnt.teacher.probs[first:].sum(-1), torch.ones(learnt.num_positions - first))
        assert torch.allclose(learnt.teacher.probs[first:], whole.teacher.probs[first:], atol=1e-2)
        assert bool((learnt.emitted == 1).all())


def test_a_step_learns_the_same_from_either(target, sources):
    losses = []
    for use in (Use.GENERATED, EVERYTHING):
        recipe = dataclasses.replace(Recipe(), dtype=torch.float32)
        trainer = Trainer(target, DraftConfig.for_target(target.config), 3, seed=0, recipe=recipe)
        loss, _ = trainer._losses(make_batch(loaded(target, sources, use)), 0, 1.0)
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_one_trace_may_be_had_for_both(target, sources):
    examples = Examples(target, AUX)
    [[held_out], _], [[learnt], _] = (examples.load(sources[:1], use) for use in (Use.REPLAY, Use.GENERATED))
    assert held_out.teacher.ids.shape[1] == 0 < learnt.teacher.ids.shape[1]
    assert examples.load(sources[:1], Use.REPLAY)[0][0] is held_out


def test_what_is_held_out_stays_in_memory_beside_what_is_learnt_from(target, traces, monkeypatch):
    """Each evaluation wants the same traces again, when thousands were learnt from since and their files are gone."""
    held_out = traces(3, seed=22)
    examples = Examples(target, AUX)
    first, _ = examples.load(held_out, Use.REPLAY)
    monkeypatch.setattr(segments, "CACHE_BYTES", sum(example.num_bytes for example in first))
    examples.load(traces(12, seed=23), Use.GENERATED)
    Path(held_out[0].segment_uri).unlink()
    monkeypatch.setattr(Target, "states", None)  # whoever asks it fails
    again, missing = examples.load(held_out, Use.REPLAY)
    assert not missing and all(one is other for one, other in zip(first, again, strict=True))


def test_the_examples_of_a_use_that_were_used_last_stay(target, traces, monkeypatch):
    sources = traces(4, seed=24)
    examples = Examples(target, AUX)
    sizes = [example.num_bytes for example in examples.load(sources, EVERYTHING)[0]]
    examples = Examples(target, AUX)
    monkeypatch.setattr(segments, "CACHE_BYTES", sum(sizes[:3]))
    examples.load(sources[:3], EVERYTHING)
    examples.load(sources[:1], EVERYTHING)
    examples.load(sources[3:], EVERYTHING)
    Path(sources[0].segment_uri).unlink()
    are_there = [examples.are_at_hand(source, EVERYTHING) for source in sources]
    assert are_there[0] and are_there[3] and not are_there[1]


def test_states_are_at_hand_where_their_file_is_and_says_what_the_draft_reads(target, traces):
    [source] = traces(1, seed=25)
    examples = Examples(target, AUX)
    assert examples.are_at_hand(source, Use.GENERATED)
    assert not examples.are_at_hand(dataclasses.replace(source, aux_layer_ids=(0, 3, 4)), Use.GENERATED)
    assert not examples.are_at_hand(dataclasses.replace(source, segment_uri=""), Use.GENERATED)
    Path(source.segment_uri).unlink()
    assert not examples.are_at_hand(source, Use.GENERATED)
    examples.load([source], Use.GENERATED)  # recomputed
    assert examples.are_at_hand(source, Use.GENERATED) and not examples.are_at_hand(source, Use.REPLAY)


DAMAGES = {
    "no numbers": (lambda tensor: tensor.index_fill(1, torch.tensor(2), float("inf")), "no finite numbers"),
    "narrow": (lambda tensor: tensor[:, :-5].contiguous(), "expected ["),
    "wide": (lambda tensor: torch.nn.functional.pad(tensor, (0, 1)), "expected ["),
    "short": (lambda tensor: tensor[:-1].clone(), "expected ["),
    "flat": (lambda tensor: tensor.flatten(), "expected ["),
    "integers": (lambda tensor: tensor.int(), "torch.int32"),
}


@pytest.mark.parametrize("name", ["states", "final"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_states_that_cannot_be_the_traces_are_not_learnt_from(target, sources, tmp_path, caplog, name, damage):
    """The target is asked anew; one such trace would end every slice that it is in."""
    do, says = DAMAGES[damage]
    source = sources[0]
    [expected] = loaded(target, [source], EVERYTHING)
    num, hidden = expected.num_positions, target.config["hidden_size"]
    tensors = {"states": torch.zeros(num, hidden * len(AUX)).half(), "final": torch.zeros(num, hidden).half()}
    tensors[name] = do(tensors[name])
    path = tmp_path / "segment.safetensors"
    save_file({f"{source.trace_id}.{key}": tensor for key, tensor in tensors.items()}, path)
    for use in (EVERYTHING, Use.GENERATED, Use.REPLAY):
        [found] = loaded(target, [dataclasses.replace(source, segment_uri=str(path))], use)
        assert torch.equal(found.features, expected.features)
    assert says in caplog.text


def test_states_of_other_layers_are_not_learnt_from(target, sources, caplog):
    """They fit a draft of another lineage: widths and numbers of rows are the same."""
    expected = loaded(target, sources, EVERYTHING)
    others = [dataclasses.replace(source, aux_layer_ids=(0, 3, 4)) for source in sources]
    gone = [dataclasses.replace(source, segment_uri="") for source in sources]
    found, computed = loaded(target, others, EVERYTHING), loaded(target, gone, EVERYTHING)
    for one, anew, whole in zip(found, computed, expected, strict=True):
        assert torch.equal(one.features, anew.features)  # what the target says now, not what the file says
        assert torch.allclose(one.features.float(), whole.features.float(), atol=1e-2)
    assert caplog.text.count("has states of layers (0, 3, 4), the draft reads (1, 3, 4)") == 1  # of one segment


def test_states_of_other_layers_are_missing_where_they_cannot_be_computed(target, sources, monkeypatch):
    def no_model(*given):
        raise OSError("no weights")

    monkeypatch.setattr(Target, "states", no_model)
    examples = Examples(target, (0, 3, 4))
    for use in (Use.GENERATED, Use.REPLAY):
        assert examples.load(sources, use) == ([], [source.trace_id for source in sources])
    assert len(Examples(target, AUX).load(sources)[0]) == len(sources)
