"""docker-compose.yml against the published schema of the compose specification, and against this repository."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((Path(__file__).parent / "compose_spec.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((REPO / "docker-compose.yml").read_text(encoding="utf-8"))


def without_extensions(compose):
    return {key: value for key, value in compose.items() if not key.startswith("x-")}


def test_it_follows_the_schema(compose):
    jsonschema.validate(without_extensions(compose), SCHEMA)


def test_the_schema_would_notice(compose):
    broken = json.loads(json.dumps(without_extensions(compose)))
    broken["services"]["web"]["comand"] = []
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        jsonschema.validate(broken, SCHEMA)


def test_every_part_is_there_and_only_the_proxy_is_published(compose):
    services = compose["services"]
    assert {
        "postgres",
        "valkey",
        "web",
        "worker",
        "trainer",
        "beat",
        "sglang-1",
        "sglang-2",
        "router",
        "proxy",
    } <= services.keys()
    assert [name for name, service in services.items() if service.get("ports")] == ["proxy"]
    for name in ("trainer", "sglang-1", "sglang-2"):
        [device] = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
    assert services["trainer"]["environment"]["AURORA_TRAINER_DEVICE"] == "${AURORA_TRAINER_DEVICE:-cuda}"


def test_volumes_files_and_dependencies_exist(compose):
    services = compose["services"]
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source.startswith(("./", "$")) or source in compose["volumes"]
            if source.startswith("./"):
                assert (REPO / source).exists()
        assert set(service.get("depends_on", {})) <= services.keys()
        if "build" in service:
            assert (REPO / service["build"]["dockerfile"]).is_file()


def test_every_variable_has_a_default_or_an_explanation_and_an_example(compose):
    text = (REPO / "docker-compose.yml").read_text(encoding="utf-8")
    example = (REPO / "deploy" / "production.env.example").read_text(encoding="utf-8")
    for name, rest in re.findall(r"\$\{([A-Z0-9_]+)([^}]*)\}", text):
        assert rest.startswith((":-", ":?")), name
        if rest.startswith(":?"):
            assert f"{name}=" in example


def test_queues_are_the_ones_that_tasks_are_sent_to(compose):
    from django.conf import settings

    commands = " ".join(
        " ".join(s["command"]) for s in compose["services"].values() if "celery" in s.get("command", [])
    )
    queues = {settings.CELERY_TASK_DEFAULT_QUEUE, *(r["queue"] for r in settings.CELERY_TASK_ROUTES.values())}
    assert all(f"-Q {queue}" in commands for queue in queues)


def arguments(service):
    """{flag: value} of a command whose flags are written --flag=value."""
    return dict(part.split("=", 1) for part in service["command"] if part.startswith("--") and "=" in part)


def test_every_replica_is_started_as_the_launch_command_says(compose):
    from aurora_web.registry.launch import Launch, launch
    from aurora_web.registry.models import SpeculatorVersion, Target

    target = Target(
        slug="target", path="/models/target", source="sglang", max_lookahead=4, config={"torch_dtype": "bfloat16"}
    )
    draft = SpeculatorVersion(number=1, uri="/state/versions/target/x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aurora_web.registry.launch._draft", lambda target: draft)
        meant: Launch = launch(target)
    for name in ("sglang-1", "sglang-2"):
        service = compose["services"][name]
        given = {flag: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for flag, value in arguments(service).items()}
        for flag, *values in meant.arguments:
            if flag == "--enable-metrics":
                assert flag in service["command"]
            elif flag not in ("--host", "--port", "--speculative-draft-model-path"):
                assert given[flag] == values[0], flag
        assert "--speculative-draft-model-path" in given
        assert {*meant.environment, "AURORA_REPLICA_TOKEN"} <= service["environment"].keys()


def test_the_console_sends_frames_as_the_supervisors_does(compose):
    from aurora_web.supervisor.programs import web_command

    meant = web_command("0.0.0.0", 8000)
    name = "--ws-per-message-deflate"
    assert arguments(compose["services"]["web"])[name] == meant[meant.index(name) + 1]


def test_replicas_have_names_of_their_own_and_the_router_knows_them(compose):
    services = compose["services"]
    replicas = {name: services[name]["environment"] for name in ("sglang-1", "sglang-2")}
    assert len({environment["AURORA_REPLICA"] for environment in replicas.values()}) == 2
    for environment in replicas.values():
        assert environment["AURORA_ENGINE_URL"] in services["router"]["command"]
    caddy = (REPO / "deploy" / "Caddyfile").read_text(encoding="utf-8")
    assert "reverse_proxy /v1/* router:30000" in caddy


def test_the_proxy_carries_domain_and_opt_out_past_the_router():
    """SGLang's router passes on its routing key and none of Aurora's headers."""
    caddy = (REPO / "deploy" / "Caddyfile").read_text(encoding="utf-8")
    key = "{header.X-Smg-Routing-Key}|aurora:{header.X-Aurora-Domain}:{aurora_wish}"
    assert f'request_header /v1/* X-Smg-Routing-Key "{key}"' in caddy, "what a client has put into the key survives"
    wishes = re.search(r"map \{header\.X-Aurora-No-Train\} \{aurora_wish\} \{(.*?)\n\t\}", caddy, re.S)[1].split("\n")
    assert [line.split() for line in wishes if line.strip()] == [
        ['""', '""'], ["0", '""'], ["false", '""'], ["default", "no-train"],
    ]  # fmt: skip


def test_the_proxy_keeps_the_figures_to_the_network_within():
    """Everybody reaches the proxy, and /metrics asks for no login; `respond` comes before `reverse_proxy` in Caddy."""
    text = (REPO / "deploy" / "Caddyfile").read_text(encoding="utf-8")
    assert "respond /metrics* 404" in text and "reverse_proxy web:8000" in text
