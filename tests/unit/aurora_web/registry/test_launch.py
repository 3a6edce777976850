"""The launch command is what a shell and SGLang understand, for this target."""

import json
import shlex
import subprocess

import pytest

from aurora_web.registry.launch import launch
from aurora_web.registry.models import SpeculatorVersion
from aurora_web.registry.services import register_target
from aurora_web.rollouts.services import judge

pytestmark = pytest.mark.django_db


@pytest.fixture
def served(checkpoint_dir):
    given = {"path": str(checkpoint_dir), "slug": "demo", "max_lookahead": 3}
    return register_target(actor="ada", source="sglang", **given)


@pytest.fixture
def target(served):
    return served  # make_version makes versions of it


def run(command, *show, token="aur_x"):
    """What the shell makes of the command, with ``python`` replaced by something that shows it."""
    script = command.replace("python -m sglang.launch_server", " ".join(show) or "printf '%s\\n'")
    environment = {"PATH": "/usr/bin:/bin"} | ({"AURORA_REPLICA_TOKEN": token} if token else {})
    return subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False)


def test_the_arguments_are_those_of_this_target(served, make_version, checkpoint_dir):
    judge(make_version())
    given = run(launch(served).command).stdout.split("\n")
    pairs = dict(zip(given[::2], given[1::2], strict=False))
    assert pairs["--model-path"] == str(checkpoint_dir)
    assert pairs["--speculative-draft-model-path"] == SpeculatorVersion.objects.get().uri
    assert pairs["--speculative-algorithm"] == "EAGLE3"
    steps = ("--speculative-num-steps", "--speculative-eagle-topk", "--speculative-num-draft-tokens")
    assert [pairs[name] for name in steps] == ["3", "1", "4"]
    assert "--enable-metrics" in given


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "float16", "torch_dtype": "bfloat16"}, "float16"),
        ({"torch_dtype": "float32"}, "float16"),  # SGLang's own choice for 32 bits
        ({"torch_dtype": None}, "float16"),
    ],
)
def test_target_and_draft_compute_in_one_dtype(served, config, dtype):
    """A draft's config.json says float32, from which SGLang would make another dtype than from the target's."""
    served.config = {name: value for name, value in served.config.items() if "dtype" not in name} | config
    found = launch(served).arguments
    assert [group for group in found if group[0] == "--dtype"] == [("--dtype", dtype)]


def test_the_environment_names_console_target_and_replica(served, settings):
    settings.CONSOLE_URL = "https://aurora.example.org"
    lines = run(launch(served, replica=2).command, "sh", "-c", "env").stdout.splitlines()
    said = dict(line.split("=", 1) for line in lines)
    assert said["AURORA_CONSOLE_URL"] == "https://aurora.example.org"
    assert (said["AURORA_TARGET_SLUG"], said["AURORA_REPLICA"]) == ("demo", "demo-30001")
    assert said["AURORA_ENGINE_URL"] == "http://127.0.0.1:30001"
    assert said["AURORA_STATE_DIR"] == str(settings.STATE_DIR)
    assert said["AURORA_CAPTURE"] == "on"
    assert said["AURORA_REPLICA_TOKEN"] == "aur_x"


def test_it_does_not_start_without_a_token(served):
    done = run(launch(served).command, token="")
    assert done.returncode != 0
    assert "export the replica token first" in done.stderr


def test_odd_characters_stay_what_they_are(served):
    served.path = "/models/my model; $(rm -rf x)"
    assert "/models/my model; $(rm -rf x)" in run(launch(served).command).stdout.split("\n")


def test_a_cpu_for_development_has_its_own_settings(served):
    found = launch(served, "cpu")
    assert found.environment["SGLANG_USE_CPU_ENGINE"] == "1"
    assert "--device cpu" in found.command
    assert "--device" not in launch(served).command
    for variant, replica in (("tpu", 1), ("gpu", 0), ("gpu", 65)):
        with pytest.raises(ValueError, match="expected"):
            launch(served, variant, replica)


def test_a_model_id_is_what_sglang_is_told_to_load(checkpoint_dir):
    config = json.loads((checkpoint_dir / "config.json").read_text())
    target = register_target(actor="ada", source="sglang", model_id="acme/tiny", config=config)
    found = launch(target)
    assert "--model-path acme/tiny" in found.command
    assert found.draft is None


def test_without_version_one_it_starts_with_the_live_one(served, make_version, report):
    judge(make_version())
    judge(make_version(report({"sql": (2.0, 1.0)})))
    assert launch(served).draft.number == 1
    SpeculatorVersion.objects.filter(number=1).update(pruned_at="2026-01-01T00:00:00Z")
    assert launch(served).draft.number == 2


def test_by_the_api(client, bearer, served):
    headers = bearer("viewer")
    answer = client.get("/api/v1/targets/demo/launch?variant=cpu&replica=3", **headers).json()
    assert (answer["replica"], answer["is_ready"]) == ("demo-30002", False)
    assert shlex.split(answer["command"].replace("\\\n", " "))[-1] == answer["arguments"][-1]
    assert client.get("/api/v1/targets/demo/launch?variant=tpu", **headers).status_code == 422


def test_the_embedded_engine_has_no_launch_command(client, bearer, checkpoint_dir):
    register_target(actor="ada", path=str(checkpoint_dir), slug="other")
    answer = client.get("/api/v1/targets/other/launch", **bearer("viewer"))
    assert answer.status_code == 409
    assert "starts by itself" in answer.json()["detail"]


def test_a_replica_token_by_the_api(client, bearer, served):
    answer = client.post("/api/v1/targets/demo/replica-token", **bearer("operator"))
    assert answer.status_code == 201
    headers = {"HTTP_AUTHORIZATION": f"Bearer {answer.json()['token']}"}
    assert client.get("/api/v1/targets/demo/desired", **headers).status_code == 200
    assert client.get("/api/v1/targets/demo", **headers).status_code == 403  # it may report, and nothing else
