"""Files of a tokenizer that are broken: the engine says which, in one sentence, and ends."""

import os
import shutil
import subprocess
import sys

import pytest

from serving.http.tokenizer import ChatTemplateError, TargetTokenizer
from serving.pocket.expand import PACKAGED, expand
from tests.bench.ring import REPO, free_ports

ASKED = [{"role": "user", "content": "hä?"}]


@pytest.fixture
def folder(tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(PACKAGED / name, tmp_path)
    return tmp_path


def test_a_template_has_what_transformers_offers_to_templates(folder):
    (folder / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m | tojson }}{% break %}{% endfor %}"
        "{{ strftime_now('%Y') | length }}{% if tools %}{{ raise_exception('no tools') }}{% endif %}"
    )
    tokenizer = TargetTokenizer(folder)
    written = tokenizer._template.render(ASKED, None)
    assert written == '<|endoftext|>{"role": "user", "content": "hä?"}4'
    assert tokenizer.decode(list(tokenizer.encode_chat(ASKED))) == written.removeprefix("<|endoftext|>")
    with pytest.raises(ValueError, match="refuses these messages: no tools"):
        tokenizer.encode_chat(ASKED, [{}])


def test_half_a_surrogate_pair_in_a_tool_is_told(folder):
    (folder / "chat_template.jinja").write_text("{{ tools | tojson }}")
    with pytest.raises(ChatTemplateError, match="lone surrogate"):
        TargetTokenizer(folder).encode_chat(ASKED, [{"name": "\ud800"}])


def test_nothing_is_worked_out_while_a_template_compiles(folder):
    (folder / "chat_template.jinja").write_text("{% if false %}{{ 2 ** 99999 }}{% endif %}{{ messages[0].content }}")
    assert TargetTokenizer(folder).encode_chat(ASKED)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}'),
        ("tokenizer_config.json", '{"chat_template": "{% for'),
        ("chat_template.jinja", "{% generation %}"),
    ],
)
def test_the_file_at_fault_is_named(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=f"^{name} "):
        TargetTokenizer(folder)


def test_the_process_ends_with_one_sentence(tmp_path):
    folder, [port] = expand(tmp_path / "cut"), free_ports(1)
    (folder / "tokenizer.json").write_text("{}")
    command = [sys.executable, "-m", "serving", "--target", str(folder), "--slug", "cut", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": f"{REPO}:{REPO / 'kernels'}", "AURORA_STATE_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: tokenizer.json is not a fast tokenizer's file: Model missing"
    )
    assert "Traceback" not in done.stderr
