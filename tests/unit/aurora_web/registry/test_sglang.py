"""Registering a target that SGLang serves: by directory, by model id, with a draft of one's own."""

import io
import json
import shutil

import pytest
from django.core.management import CommandError, call_command
from safetensors.torch import load_file, save_file

from aurora_web.registry.models import Target
from aurora_web.registry.services import IncompatibleTarget, register_target
from tests.unit.serving.tiny import make_draft

pytestmark = pytest.mark.django_db


@pytest.fixture
def config(checkpoint_dir):
    return json.loads((checkpoint_dir / "config.json").read_text())


def register(**given):
    return register_target(actor="ada", source="sglang", **given)


def problems_of(**given):
    with pytest.raises(IncompatibleTarget) as caught:
        register(**given)
    assert not Target.objects.exists()
    return " ".join(caught.value.problems)


def test_a_directory(checkpoint_dir):
    target = register(path=str(checkpoint_dir), slug="tiny")
    assert (target.source, target.path, target.origin) == ("sglang", str(checkpoint_dir), str(checkpoint_dir))


def test_a_model_id_with_its_config(config):
    target = register(model_id="acme/Tiny-1B", config=config)
    assert (target.slug, target.path, target.origin, target.num_layers) == ("tiny-1b", "", "acme/Tiny-1B", 8)


def test_a_model_id_below_the_models_directory(checkpoint_dir, tmp_path, settings):
    shutil.copytree(checkpoint_dir, tmp_path / "acme" / "Tiny-1B")
    settings.MODELS_DIR = tmp_path
    target = register(model_id="acme/Tiny-1B")
    assert target.path == str(tmp_path / "acme" / "Tiny-1B")
    assert target.vocab_size == 61


def test_a_model_id_alone_is_explained(settings, tmp_path):
    assert "AURORA_MODELS_DIR is not set" in problems_of(model_id="acme/Tiny-1B")
    settings.MODELS_DIR = tmp_path
    assert f"{tmp_path}/acme/Tiny-1B does not exist" in problems_of(model_id="acme/Tiny-1B")


@pytest.mark.parametrize("model_id", ["../../etc", "a b", "/x", "a/b/c", "acme/../x"])
def test_a_model_id_is_no_path(model_id, config):
    assert "is no model id" in problems_of(model_id=model_id, config=config)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"num_hidden_layers": 4}, "4 layers"),
        ({"max_position_embeddings": None}, "max_position_embeddings is None"),
        ({"rope_theta": None, "rope_parameters": None}, "rope_theta is None"),
    ],
)
def test_what_the_draft_cannot_fit_is_named(config, changes, named):
    assert named in problems_of(model_id="acme/tiny", config=config | changes)


def test_neither_or_both_is_refused(checkpoint_dir):
    assert "either" in problems_of()
    assert "either" in problems_of(path=str(checkpoint_dir), model_id="acme/tiny")


def test_what_only_the_embedded_engine_cannot_do_is_fine(checkpoint_dir, tmp_path):
    folder = shutil.copytree(checkpoint_dir, tmp_path / "long")
    given = json.loads((folder / "config.json").read_text())
    given["rope_scaling"] = {"rope_type": "yarn", "factor": 8.0}
    (folder / "config.json").write_text(json.dumps(given))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{% generation %}"}')
    assert register(path=str(folder)).slug == "long"


@pytest.mark.parametrize(("name", "content"), [("generation_config.json", '{"eos'), ("tokenizer.json", "{}")])
def test_what_the_trainer_cannot_read_is_named(checkpoint_dir, tmp_path, name, content):
    folder = shutil.copytree(checkpoint_dir, tmp_path / "cut")
    (folder / name).write_text(content)
    assert f"{name} is not " in problems_of(path=str(folder))


def test_a_model_id_is_not_for_the_embedded_engine(config):
    with pytest.raises(IncompatibleTarget, match="for SGLang servers"):
        register_target(actor="ada", model_id="acme/tiny", config=config)
    with pytest.raises(IncompatibleTarget, match="'vllm' is unknown"):
        register_target(actor="ada", source="vllm", path="/x")


def test_an_imported_draft_is_checked_without_torch(checkpoint_dir, config, tmp_path):
    make_draft(tmp_path / "draft", config, seed=1, vocab=30)
    target = register(path=str(checkpoint_dir), slug="tiny", draft_path=str(tmp_path / "draft"))
    assert target.draft_path == str(tmp_path / "draft")


@pytest.mark.parametrize(
    ("layer", "problem"), [("layers.0.", ""), ("model.layers.0.", ""), ("block.", "its layer is missing")]
)
def test_a_draft_is_known_by_sglangs_names_of_today_too(checkpoint_dir, config, tmp_path, layer, problem):
    make_draft(tmp_path / "draft", config, seed=1, vocab=30)
    path = tmp_path / "draft" / "model.safetensors"
    save_file({name.replace("midlayer.", layer): tensor for name, tensor in load_file(path).items()}, path)
    given = {"path": str(checkpoint_dir), "slug": "tiny", "draft_path": str(tmp_path / "draft")}
    if problem:
        assert problem in problems_of(**given)
    else:
        assert register(**given).draft_path == str(tmp_path / "draft")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "expected LlamaForCausalLMEagle3"),
        ({"vocab_size": 99}, "vocab_size is 99, the target's is 61"),
        ({"hidden_size": 64}, "hidden_size is 64"),
        ({"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 3, 9]}}, "[1, 3, 9]"),
        ({"draft_vocab_size": 29}, "lm_head.weight has shape [30, 32], expected [29, 32]"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2, expected 1"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "Draft: rope_scaling: rope_type is 'yarn', expected 'default'"),
        ({"rope_parameters": {"type": "linear"}}, "Draft: rope_parameters: rope_type is 'linear'"),
        ({"hidden_act": "gelu"}, "Draft: hidden_act is 'gelu', expected 'silu': Aurora's drafts have nothing else."),
        ({"norm_output": True}, "Draft: norm_output is True, expected False"),
        ({"rope_is_neox_style": False}, "Draft: rope_is_neox_style is False, expected True"),
    ],
)
def test_a_draft_of_another_model_is_refused(checkpoint_dir, config, tmp_path, changes, named):
    make_draft(tmp_path / "draft", config, seed=1, vocab=30)
    path = tmp_path / "draft" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert named in problems_of(path=str(checkpoint_dir), draft_path=str(tmp_path / "draft"))
    assert "Draft: /nowhere does not exist" in problems_of(path=str(checkpoint_dir), draft_path="/nowhere")


def test_a_draft_that_reads_other_layers_is_for_sglang_alone(checkpoint_dir, config, tmp_path):
    """The embedded engine captures the layers of a new draft; SGLang those of the draft that it is launched with."""
    make_draft(tmp_path / "draft", config, seed=1, vocab=30)
    path = tmp_path / "draft" / "config.json"
    layers = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 3, 4]}}
    path.write_text(json.dumps(json.loads(path.read_text()) | layers))
    given = {"path": str(checkpoint_dir), "slug": "tiny", "draft_path": str(tmp_path / "draft")}
    named = r"reads layers \[0, 3, 4\], the embedded engine captures \[1, 3, 4\]: SGLang can serve it\."
    with pytest.raises(IncompatibleTarget, match=named):
        register_target(actor="ada", **given)
    assert register(**given).draft_path == str(tmp_path / "draft")


@pytest.mark.parametrize(
    ("file", "there"),
    [
        (None, ""),
        ("pytorch_model.bin", ", there is only pytorch_model.bin"),
        ("model-00001-of-00002.safetensors", ", there is only model-00001-of-00002.safetensors"),
    ],
)
def test_a_draft_whose_weights_are_in_other_files_is_refused(checkpoint_dir, config, tmp_path, file, there):
    make_draft(tmp_path / "draft", config, seed=1, vocab=30)
    (tmp_path / "draft" / "model.safetensors").unlink()
    if file:
        (tmp_path / "draft" / file).write_bytes(b"weights")
    assert problems_of(path=str(checkpoint_dir), draft_path=str(tmp_path / "draft")) == (
        f"Draft: model.safetensors is missing{there}: expected the weights in one safetensors file of that name. "
        "Save the weights as model.safetensors, or begin with random ones."
    )


def test_by_the_api(client, bearer, config):
    body = {"source": "sglang", "model_id": "acme/tiny", "config": config, "policy": {"canary_share": 0.5}}
    answer = client.post("/api/v1/targets", json.dumps(body), content_type="application/json", **bearer("operator"))
    assert answer.status_code == 201
    assert (answer.json()["model_id"], answer.json()["canary_share"]) == ("acme/tiny", 0.5)
    bad = client.post(
        "/api/v1/targets", json.dumps(body | {"config": None}), content_type="application/json", **bearer("operator")
    )
    assert bad.status_code == 422
    assert "paste the model's config.json" in bad.json()["errors"][0]


def test_by_the_command_line_twice(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    for _ in range(2):
        said = io.StringIO()
        call_command(
            "register",
            source="sglang", model_id="acme/tiny", config=str(tmp_path / "config.json"), canary_share=0.25, stdout=said,
        )  # fmt: skip
        assert said.getvalue().strip() == "tiny"
    assert Target.objects.get().canary_share == 0.25
    with pytest.raises(CommandError, match=r"nowhere\.json"):
        call_command("register", source="sglang", model_id="acme/other", config="/nowhere.json")


def test_no_embedded_engine_is_started_for_it(client, bearer, target, config):
    register(model_id="acme/tiny", config=config)
    engines = client.get("/api/v1/engines", **bearer("replica")).json()["engines"]
    assert [engine["slug"] for engine in engines] == ["demo"]
