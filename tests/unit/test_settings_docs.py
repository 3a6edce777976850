"""docs/settings.md against what the code reads, and docker-compose.yml against what the pages have people set."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from aurora_web.environment import OIDC_DEFAULTS

REPO = Path(__file__).resolve().parents[2]
NAME = re.compile(r"AURORA_[A-Z0-9_]*[A-Z0-9]")
SERVERS = ("DATABASE_URL", "REDIS_URL")
PREFIXES = {"AURORA_WEB", "AURORA_ENGINE"}  # that supervisor/ports.py puts _HOST and _PORT behind
READERS = {"up", "console", "engine", "SGLang", "trainer", "traffic", "compose"}
CONSOLE = ("migrate", "web", "worker", "beat", "trainer")
SGLANG = ("sglang-1", "sglang-2")
# docker-compose.yml says these itself, or has no place for them: the last paragraph of the page.
OWN = {*SERVERS, "AURORA_STATE_DIR", "AURORA_WEB_HOST", "AURORA_WEB_PORT", "AURORA_REPLICA", "AURORA_ENGINE_URL"}
NOWHERE = {"AURORA_DEBUG", "AURORA_SGLANG_KEY"}
# Another value within the network: http://web:8000 there, and /models, which is the folder that .env names.
INSIDE = {"console": {"AURORA_MODELS_DIR"}, "SGLang": {"AURORA_CONSOLE_URL"}}
OTHERWISE_NAMED = {"AURORA_TARGET_SLUG": "AURORA_TARGET"}


def text(name):
    return (REPO / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def table():
    """{variable: who reads it}"""
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \| [^|]+ \| [^|]+ \|$", text("docs/settings.md"), re.M)
    return {name: set(readers.split(", ")) for names, readers in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load(text("docker-compose.yml"))["services"]


def read_by_code():
    """Every string of the code that is the name of a variable."""
    found = {f"AURORA_OIDC_{name}" for name in OIDC_DEFAULTS} | set(SERVERS)
    for folder in ("aurora_web", "serving", "speculators", "training_worker", "kernels"):
        for path in (REPO / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
                    found.add(node.value)
    return found - PREFIXES


def read_by_compose():
    """Every variable of ``.env`` that the files of the deployment take."""
    return set(re.findall(r"\$\{([A-Z0-9_]+)", text("docker-compose.yml")))


def test_the_page_has_every_variable_that_is_read_and_no_other(table):
    assert set(table) == read_by_code() | read_by_compose()
    assert {"AURORA_SEGMENT_MIB", "AURORA_QUEUE_MIB", "AURORA_TRAINER_DEVICE"} <= read_by_code()
    assert set().union(*table.values()) == READERS
    assert {name for name, readers in table.items() if "compose" in readers} <= read_by_compose()
    assert "docs/settings.md" in text("README.md")


def reaches(service, name):
    """Whether the value that ``.env`` has of it is in the environment of the service's container."""
    given = OTHERWISE_NAMED.get(name, name)
    return str(service["environment"].get(name, "")).startswith(f"${{{given}:")


@pytest.mark.parametrize(("reader", "names"), [("console", CONSOLE), ("SGLang", SGLANG)])
def test_what_a_process_reads_reaches_its_containers(table, services, reader, names):
    wanted = {variable for variable, readers in table.items() if reader in readers} - OWN - NOWHERE - INSIDE[reader]
    missing = {(name, variable) for name in names for variable in wanted if not reaches(services[name], variable)}
    assert not missing


def test_what_the_page_for_servers_and_the_example_name_is_taken_from_the_env_file(table):
    told = set(NAME.findall(text("docs/production.md"))) | set(NAME.findall(text("deploy/production.env.example")))
    assert {"AURORA_EMAIL_FROM", "AURORA_V1_KEY", "AURORA_SPOOL_QUOTA_MIB"} <= told <= set(table)
    assert not told - read_by_compose() - OWN


def test_what_the_proxy_is_told_to_ask_for_reaches_it(services):
    named = set(re.findall(r"\{\$(AURORA_\w+)\}", text("deploy/Caddyfile") + text("docs/production.md")))
    assert named == {"AURORA_SITE", "AURORA_V1_KEY"} and all(reaches(services["proxy"], name) for name in named)
