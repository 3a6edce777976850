"""Version 1 from a config alone, and from somebody else's checkpoint."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators import checkpoint
from tests.unit.serving.tiny import make_draft
from training_worker import slices, vocabulary
from training_worker.config import SliceJob
from training_worker.day_zero import import_draft
from training_worker.slices import TrainingError, run_slice


@pytest.fixture
def config(target_dir):
    return json.loads((target_dir / "config.json").read_text())


@pytest.fixture
def job(config, tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "_warm", {})
    return SliceJob(
        target_slug="demo",
        target_path="",
        run_id="run",
        work_dir=str(tmp_path / "work"),
        versions_dir=str(tmp_path / "versions"),
        parent_version=None,
        parent_uri="",
        live_uri="",
        fresh=(),
        replay=(),
        held_out=(),
        lookahead=3,
        budget_seconds=0.3,
        seed=3,
        code_version="test",
        publish=True,
        target_config=config,
    )


def foreign(folder, config, layer="midlayer.", prefix="", **changes):
    """A checkpoint as other tools leave it: bfloat16, with the embedding, without t2d, a short position range.

    Its layer may have another name, and its tensors, the head and the map aside, those of SGLang's modules.
    """
    make_draft(folder, config, seed=5, vocab=30)
    path = folder / "model.safetensors"
    state = {n: t.bfloat16() if t.is_floating_point() else t for n, t in load_file(path).items() if n != "t2d"}
    state["embed_tokens.weight"] = torch.zeros(61, 32, dtype=torch.bfloat16)
    save_file({_named(name, layer, prefix): tensor for name, tensor in state.items()}, path)
    given = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 64} | changes
    del given["eagle_config"]
    (folder / "config.json").write_text(json.dumps(given))
    return state


def _named(name, layer, prefix):
    return (prefix if name not in ("lm_head.weight", "d2t") else "") + name.replace("midlayer.", layer)


def test_random_weights_need_the_config_alone(job):
    result = run_slice(job, lambda progress: None)
    config, _ = checkpoint.load(Path(result.manifest.uri), result.manifest.sha256)
    assert config.aux_layer_ids == (1, 3, 4)
    assert result.manifest.provenance["seed"] == 3
    assert checkpoint.lint(Path(result.manifest.uri), job.target_config) == []


def test_traces_need_the_target_and_wait_for_it(job, traces, target_dir):
    first = run_slice(job, lambda progress: None)
    later = replace(job, fresh=tuple(traces(6)), parent_uri=first.manifest.uri, parent_version=1)
    with pytest.raises(TrainingError, match="AURORA_MODELS_DIR") as caught:
        run_slice(later, lambda progress: None)
    assert caught.value.retryable
    result = run_slice(replace(later, target_path=str(target_dir)), lambda progress: None)  # it has come
    assert len(result.trained_trace_ids) == 6
    assert result.progress.step > 0


@pytest.mark.parametrize(
    ("layer", "prefix"), [("midlayer.", ""), ("layers.0.", ""), ("midlayer.", "model."), ("layers.0.", "model.")]
)
def test_the_names_of_any_sglang_are_read(config, tmp_path, layer, prefix):
    state = foreign(tmp_path / "foreign", config, layer, prefix)
    given = load_file(tmp_path / "foreign" / "model.safetensors")
    assert f"{prefix}{layer}self_attn.q_proj.weight" in given
    _, tensors = import_draft(tmp_path / "foreign", config)
    assert torch.equal(tensors["midlayer.mlp.up_proj.weight"], state["midlayer.mlp.up_proj.weight"].float())
    assert torch.equal(tensors["norm.weight"], state["norm.weight"].float())


def test_a_tensor_that_is_there_by_two_names_is_refused(config, tmp_path):
    state = foreign(tmp_path / "foreign", config)
    save_file(state | {"layers.0.hidden_norm.weight": torch.zeros(32)}, tmp_path / "foreign" / "model.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match=r"hidden_norm\.weight is there by another name too"):
        import_draft(tmp_path / "foreign", config)


def test_an_imported_draft_becomes_version_one_and_is_learnt_on(job, config, traces, target_dir, tmp_path, monkeypatch):
    state = foreign(tmp_path / "foreign", config)
    job = replace(job, import_path=str(tmp_path / "foreign"))
    first = run_slice(job, lambda progress: None)
    ours, tensors = checkpoint.load(Path(first.manifest.uri), first.manifest.sha256)
    assert (ours.aux_layer_ids, ours.draft_vocab_size, ours.max_position_embeddings) == ((1, 3, 4), 30, 128)
    assert torch.equal(tensors["fc.weight"], state["fc.weight"].float())
    assert int(tensors["t2d"].sum()) == 30
    assert first.manifest.provenance["imported_from"] == str(tmp_path / "foreign")
    copied = run_slice(replace(job, import_name="demo v3"), lambda progress: None)
    assert copied.manifest.provenance["imported_from"] == f"demo v3, {tmp_path / 'foreign'}"
    later = replace(
        job, target_path=str(target_dir), fresh=tuple(traces(6)), parent_uri=first.manifest.uri, parent_version=1
    )
    result = run_slice(later, lambda progress: None)
    assert result.manifest.config["draft_vocab_size"] == 30
    assert result.manifest.parent == 1
    monkeypatch.setattr(slices, "_warm", {})  # the trainer is started again
    again = run_slice(replace(later, parent_uri=result.manifest.uri, parent_version=2), lambda progress: None)
    assert again.progress.step > result.progress.step
    assert again.manifest.config == result.manifest.config


def test_the_vocabulary_follows_the_traffic_where_the_engine_takes_that(
    job, config, traces, target_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(vocabulary, "PRIOR_TOKENS", 30.0)  # few are said here
    foreign(tmp_path / "foreign", config)
    first = run_slice(replace(job, import_path=str(tmp_path / "foreign")), lambda progress: None)
    job = replace(job, target_path=str(target_dir), parent_uri=first.manifest.uri, fresh=tuple(traces(12)))
    on_sglang = run_slice(job, lambda progress: None)
    embedded = run_slice(replace(job, fresh=tuple(traces(12, seed=1)), follows_vocabulary=True), lambda progress: None)
    d2t = [checkpoint.load(Path(result.manifest.uri))[1]["d2t"] for result in (first, on_sglang, embedded)]
    assert torch.equal(d2t[0], d2t[1])
    assert not torch.equal(d2t[1], d2t[2])
    shares = [result.manifest.provenance["coverage"] for result in (on_sglang, embedded)]
    assert 0 < shares[0] < shares[1] <= 1


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda state: state.pop("fc.weight"), "missing tensor fc.weight"),
        (lambda state: state["norm.weight"].fill_(float("nan")), "not finite"),
        (lambda state: state["d2t"].fill_(60), "d2t"),
        (lambda state: state.__setitem__("odd.weight", torch.zeros(1)), "unknown tensor odd.weight"),
    ],
)
def test_what_does_not_fit_is_named(config, tmp_path, spoil, named):
    folder = tmp_path / "foreign"
    state = foreign(folder, config)
    spoil(state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match=named):
        import_draft(folder, config)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling: rope_type is 'llama3'"),
        ({"rope_scaling": None, "rope_parameters": {"rope_type": "yarn"}}, "rope_parameters: rope_type is 'yarn'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', expected 'silu'"),
        ({"norm_output": True}, "norm_output is True, expected False"),
        ({"draft_vocab_size": None}, "draft_vocab_size is null, expected the rows of lm_head"),
        ({"rope_is_neox_style": False}, "rope_is_neox_style is False, expected True"),
    ],
)
def test_a_draft_that_would_compute_otherwise_than_ours_is_refused_for_good(job, config, tmp_path, changes, named):
    foreign(tmp_path / "foreign", config, **changes)
    with pytest.raises(TrainingError, match=r"draft config\.json") as caught:
        run_slice(replace(job, import_path=str(tmp_path / "foreign")), lambda progress: None)
    assert named in str(caught.value) and not caught.value.retryable


def test_what_a_config_leaves_out_is_not_taken_from_the_target(config, tmp_path):
    """SGLang runs such a draft with the defaults of transformers, and it was trained so."""
    nothing = dict.fromkeys(("rope_theta", "rope_parameters", "rms_norm_eps", "head_dim"))
    foreign(tmp_path / "foreign", config, **nothing)
    says = json.loads((tmp_path / "foreign" / "config.json").read_text())
    del says["draft_vocab_size"]
    (tmp_path / "foreign" / "config.json").write_text(json.dumps(says))
    path = tmp_path / "foreign" / "model.safetensors"
    whole = {n: t for n, t in load_file(path).items() if n != "d2t"} | {"lm_head.weight": torch.zeros(61, 32)}
    save_file(whole, path)
    of_the_target = {"rope_theta": 5e5, "rope_parameters": None, "rms_norm_eps": 1e-5}
    ours, _ = import_draft(tmp_path / "foreign", config | of_the_target)
    assert (ours.rope_theta, ours.rms_norm_eps, ours.draft_vocab_size, ours.head_dim) == (10_000.0, 1e-6, 61, 8)


@pytest.mark.parametrize(
    ("files", "there"),
    [
        ((), ""),
        (("pytorch_model.bin",), ", there is only pytorch_model.bin"),
        (
            ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
            ", there is only model-00001-of-00002.safetensors and model-00002-of-00002.safetensors",
        ),
    ],
)
def test_weights_in_other_files_are_refused(config, tmp_path, files, there):
    foreign(tmp_path / "foreign", config)
    (tmp_path / "foreign" / "model.safetensors").unlink()
    for name in files:
        (tmp_path / "foreign" / name).write_bytes(b"weights")
    with pytest.raises(checkpoint.CheckpointError) as caught:
        import_draft(tmp_path / "foreign", config)
    sentence = f"model.safetensors is missing{there}: expected the weights in one safetensors file of that name"
    assert str(caught.value) == f"{tmp_path / 'foreign'}: {sentence}"


def test_a_draft_of_another_model_is_refused_for_good(job, config, tmp_path):
    foreign(tmp_path / "foreign", config, hidden_size=16)
    with pytest.raises(TrainingError, match="foreign") as caught:
        run_slice(replace(job, import_path=str(tmp_path / "foreign")), lambda progress: None)
    assert not caught.value.retryable
