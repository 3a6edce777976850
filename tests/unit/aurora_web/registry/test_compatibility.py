"""The check of a directory says exactly what the engine cannot serve, and how to put it right."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from aurora_web.registry.compatibility import inspect
from aurora_web.registry.findings import State, Topic
from serving.http.tokenizer import ChatTemplateError, TargetTokenizer
from serving.model.decoder import Decoder
from speculators.target_config import GENERATION, INDEX, SINGLE
from speculators.tokenizer_files import CONFIG, TEMPLATE, TOKENIZER

LLAMA_31 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}  # fmt: skip


@pytest.fixture
def copy(checkpoint_dir, tmp_path):
    return shutil.copytree(checkpoint_dir, tmp_path / "My Model")


def change(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def shard(folder):
    """The weights in two files and their index; returns the second file."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    second = {name for name in tensors if name.startswith("model.layers.7.")}
    files = {"model-1-of-2.safetensors": tensors.keys() - second, "model-2-of-2.safetensors": second}
    for file, names in files.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    mapping = {name: file for file, names in files.items() for name in names}
    (folder / INDEX).write_text(json.dumps({"weight_map": mapping}))
    return folder / "model-2-of-2.safetensors"


def is_served(folder):
    """Whether the engine loads the directory; it says why not, in one sentence: these are what its process catches."""
    try:
        Decoder(folder, (1, 3, 4), num_slots=1, max_len=64)  # generation_config.json is read with the config
        TargetTokenizer(folder)
    except (ValueError, FileNotFoundError):
        return False
    return True


def test_a_good_directory_has_no_problem(copy):
    facts, problems = inspect(str(copy))
    assert problems == []
    assert (facts.default_slug, facts.hidden_size) == ("my-model", 32)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": None, "rope_theta": None},  # as in Llama 2
        {"rope_parameters": None, "rope_theta": 5e5, "rope_scaling": LLAMA_31},
        {"rope_parameters": LLAMA_31 | {"rope_theta": 5e5}},
        {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"hidden_act": None},
        {"head_dim": None},
    ],
)
def test_what_the_engine_serves_is_let_through(copy, changes):
    change(copy, **changes)
    assert is_served(copy)
    assert inspect(str(copy))[1] == []


@pytest.mark.parametrize(
    ("changes", "named", "fix"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel", "LlamaForCausalLM"),
        ({"vocab_size": 62}, "[62, 32]", "one and the same model"),
        ({"hidden_size": None}, "hidden_size", "Set hidden_size"),
        ({"num_hidden_layers": 9}, "model.layers.8.", "one and the same model"),
        ({"num_hidden_layers": 1 << 40}, "layers", "one and the same model"),
        ({"max_position_embeddings": None}, "max_position_embeddings is None", "Set max_position_embeddings"),
        ({"intermediate_size": 96}, "[96, 32]", "one and the same model"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta is 0", "publisher"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "'yarn'", "SGLang"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'", "SGLang"),
        ({"rope_scaling": "llama3"}, "rope_scaling is 'llama3'", "publisher"),
        ({"hidden_act": "gelu"}, "'gelu'", "SGLang"),
        ({"use_sliding_window": True}, "use_sliding_window", "SGLang"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized", "not quantized"),
    ],
)
def test_what_the_engine_refuses_is_named_with_its_fix(copy, changes, named, fix):
    change(copy, **changes)
    assert not is_served(copy)
    _, problems = inspect(str(copy))
    assert any(named in problem.says and fix in problem.fix for problem in problems), problems


def test_a_draft_needs_layers_to_read(copy):
    change(copy, num_hidden_layers=4)
    assert any("4 layers" in str(problem) for problem in inspect(str(copy))[1])


def test_weights_in_several_files_are_read_by_their_index(copy):
    shard(copy)
    assert is_served(copy)
    assert inspect(str(copy))[1] == []


def lose_index(folder, second):
    (folder / INDEX).unlink()


def lose_file(folder, second):
    second.unlink()


def spoil_index(folder, second):
    (folder / INDEX).write_text("[]")


def index_of_another(folder, second):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.layers.8.mlp.up_proj.weight"] = second.name
    (folder / INDEX).write_text(json.dumps(index))


def index_of_other_files(folder, second):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = second.name
    (folder / INDEX).write_text(json.dumps(index))


def index_without_a_tensor(folder, second):
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"]["model.norm.weight"]
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "named", "fix"),
    [
        (lose_index, f"Neither {SINGLE} nor {INDEX} is there", f"Put the {INDEX}"),
        (lose_file, "model-2-of-2.safetensors", "Finish the download"),
        (spoil_index, "weight_map", "Download that file again"),
        (index_of_another, "model.layers.8.mlp.up_proj.weight", "different models"),
        (index_of_other_files, "model.norm.weight", "different models"),
        (index_without_a_tensor, "model.norm.weight", "one and the same model"),
    ],
)
def test_what_is_wrong_with_several_files_is_named_with_its_fix(copy, spoil, named, fix):
    spoil(copy, shard(copy))
    assert is_served(copy) == (spoil is index_of_another)  # the engine asks for no tensor that it does not know
    [problem] = inspect(str(copy))[1]
    assert named in problem.says and fix in problem.fix


def test_weights_of_another_type_are_named(copy):
    tensors = load_file(copy / SINGLE)
    save_file(tensors | {"model.norm.weight": tensors["model.norm.weight"].double()}, copy / SINGLE)
    assert not is_served(copy)
    [problem] = inspect(str(copy))[1]
    assert "type F64" in problem.says


def test_a_download_cut_short(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert not is_served(copy)
    _, problems = inspect(str(copy))
    assert any("cut short" in str(problem) for problem in problems)


@pytest.mark.parametrize(
    ("name", "named"),
    [("config.json", "config.json"), ("model.safetensors", "safetensors"), ("tokenizer.json", "tokenizer")],
)
def test_missing_files_are_named(copy, name, named):
    (copy / name).unlink()
    assert not is_served(copy)
    _, problems = inspect(str(copy))
    assert any(named in str(problem) for problem in problems)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"\xef\xbb\xbf{}", b"[" * 100_000])
def test_config_that_is_no_json(copy, content):
    (copy / "config.json").write_bytes(content)
    assert not is_served(copy)
    facts, [problem] = inspect(str(copy))
    assert facts is None
    assert problem.says.startswith("config.json ") and "damaged" in problem.fix


SPOILT = [
    (TOKENIZER, "{", "is not a fast tokenizer's file: EOF", "Put the tokenizer.json of this model"),
    (TOKENIZER, "{}", "is not a fast tokenizer's file: Model missing", "Put the tokenizer.json of this model"),
    (TOKENIZER, '{"model": {"vocab": {"a": 0}}}', "is not a fast tokenizer's file: data", "Put the tokenizer.json"),
    (CONFIG, '{"chat_template": "{{ mess', "is not valid JSON", "Download that file again."),
    (CONFIG, "[]", "holds list, expected an object", "Download that file again."),
    (CONFIG, '{"eos_token": {"id": 3}}', "eos_token is {'id': 3}", "Download that file again."),
    (CONFIG, '{"chat_template": 3}', "chat_template is int", "Download that file again."),
    (CONFIG, '{"chat_template": "a\\n{% if b %}"}', "does not compile: line 2: Unexpected end", f"into {TEMPLATE}"),
    (CONFIG, '{"chat_template": [{"name": "default", "template": "{{ a }"}]}', "does not compile: line 1", TEMPLATE),
    (TEMPLATE, "{{ a | no_filter }}", "does not compile: line 1: No filter named", "Download that file again."),
    (
        TEMPLATE,
        "{% for a in b %}" * 30 + "{% endfor %}" * 30,
        "does not compile: too many",
        "Download that file again.",
    ),
    (TEMPLATE, "{{ " + "(" * 5000, "does not compile: maximum recursion", "Download that file again."),
    (TEMPLATE, b"\xff", "is not UTF-8 text", "Download that file again."),
    (GENERATION, '{"eos_token_id": ', "is not valid JSON", "Download that file again."),
    (GENERATION, "[2]", "holds list, expected an object", "Download that file again."),
    (GENERATION, '{"eos_token_id": "</s>"}', "eos_token_id is '</s>'", "Download that file again."),
]


@pytest.mark.parametrize(("name", "content", "named", "fix"), SPOILT)
def test_a_file_that_would_end_the_engine_is_named_with_its_fix(copy, name, content, named, fix):
    (copy / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert not is_served(copy)
    [problem] = inspect(str(copy))[1]
    assert name in problem.says and named in problem.says and fix in problem.fix, problem
    assert problem.state == State.REFUSED and "\n" not in problem.says


def test_end_tokens_of_the_config_that_are_none(copy):
    (copy / GENERATION).unlink()
    change(copy, eos_token_id=[60, "w0"])
    assert not is_served(copy)
    [problem] = inspect(str(copy))[1]
    assert "config.json: eos_token_id is [60, 'w0']" in problem.says


def test_a_tokenizer_that_was_replaced_is_read_again(copy):
    whole = (copy / TOKENIZER).read_bytes()
    for content, num_problems in ((whole, 0), (whole[:-9], 1), (whole.replace(b": 60", b": 61"), 1), (whole, 0)):
        (copy / TOKENIZER).write_bytes(content)
        assert len(inspect(str(copy))[1]) == num_problems


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (CONFIG, "{}"),
        (CONFIG, '{"chat_template": null}'),
        (CONFIG, '{"chat_template": [{"name": "tool_use", "template": "a"}]}'),
        (TEMPLATE, ""),
    ],
)
def test_a_model_without_a_chat_template_is_served_and_the_check_says_what_is_missing(copy, name, content):
    (copy / name).write_text(content)
    assert is_served(copy)
    with pytest.raises(ChatTemplateError, match="no chat template; use /v1/completions"):
        TargetTokenizer(copy).encode_chat([{"role": "user", "content": "w1"}])
    [note] = inspect(str(copy))[1]
    assert (note.topic, note.state) == (Topic.CHAT, State.WARNING)
    assert "/v1/completions works" in note.says and f"Put a {TEMPLATE}" in note.fix


def test_a_template_of_its_own_goes_before_a_broken_one(copy):
    (copy / CONFIG).write_text('{"chat_template": "{{ a }"}')
    (copy / TEMPLATE).write_text("{{ messages[0].content }}")
    assert is_served(copy)
    assert inspect(str(copy))[1] == []
