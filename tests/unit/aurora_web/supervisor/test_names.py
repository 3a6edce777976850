"""An engine of this machine is the same replica on every port: with what it has on disk, and at the console."""

import json

import pytest

from aurora_web.rollouts.replicas import observe
from aurora_web.supervisor import prepare
from aurora_web.supervisor.config import SupervisorConfig
from aurora_web.supervisor.names import PLACES, former_name, replica_name, take_over
from aurora_web.supervisor.programs import Programs
from serving import config as serving_config
from serving.trace.desired_file import DesiredFile
from serving.trace.parts import running
from serving.trace.pins import PinFollower
from serving.trace.spool import Spool
from speculators.records import DesiredState, DomainPin, DomainPins
from tests.bench.ring import free_ports
from tests.unit.serving.fakes import FakeEngine

GOOD = DesiredState("demo", 4, 0, "", "", 3, 0.2, 0.0)
PINS = DomainPins(7, (DomainPin("sql", 2),))


@pytest.fixture
def recording(tmp_path, checkpoint_dir):
    """What the engine that the supervisor would start on a port is told to record; its console is away."""
    [web] = free_ports(1)
    environment = {"AURORA_STATE_DIR": str(tmp_path), "AURORA_WEB_PORT": str(web)}
    config = SupervisorConfig.from_environment(environment)
    programs = Programs(config, config.child_environment("", ""))

    def on(port):
        program = programs.engine("demo", str(checkpoint_dir), port)
        arguments = program.command[program.command.index("serving") + 1 :]
        return serving_config.load(arguments, program.environment).recording("test")

    return on


def leave_behind(recording):
    """What an engine leaves that ends while the console is away."""
    spool = Spool(recording.spool_root / recording.replica)
    spool.put("counts-1", {"counts": []})
    spool.close()
    DesiredFile(recording.desired_file).write(GOOD)
    PinFollower(FakeEngine().pins, recording.pins_file).follow(PINS)


def assert_all_is_found(recording):
    engine = FakeEngine()
    with running(recording, engine.aux_layer_ids, engine, {"hidden_size": 4}) as parts:
        assert len(parts.spool) == 1
        parts.follower.restore()
        assert parts.follower.observed().generation == 4
        assert engine.pins.of("sql").lookahead == 2


def test_on_another_port_it_finds_what_it_had_on_disk(recording):
    leave_behind(recording(8100))
    assert_all_is_found(recording(8101))


def test_its_command_has_a_name_without_a_port(recording):
    assert {recording(port).replica for port in (8100, 8101)} == {replica_name("demo")} == {"demo-embedded"}


def test_long_slugs_have_names_that_an_engine_takes_each_its_own():
    slugs = ["a" * 54 + "b" * n for n in range(1, 11)]
    found = [replica_name(slug) for slug in slugs]
    assert len(set(found)) == len(slugs)
    assert all(serving_config.NAME.fullmatch(name) for name in found)


def test_what_it_had_under_its_former_name_is_taken_over_once(recording, tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr("aurora_web.supervisor.programs.replica_name", lambda slug: former_name(slug, 8100))
        leave_behind(recording(8100))
    take_over(tmp_path, "demo-8100", "demo-embedded")
    assert_all_is_found(recording(8101))
    assert not any((tmp_path / place.format("demo-8100")).exists() for place in PLACES)
    by_hand = tmp_path / "replicas" / "demo-8100.desired.json"
    by_hand.write_text("{}")  # of an engine that somebody has started since
    take_over(tmp_path, "demo-8100", "demo-embedded")
    assert by_hand.exists()
    assert DesiredFile(recording(8100).desired_file).read() == GOOD


def test_after_an_upgrade_the_console_knows_it_as_the_replica_that_it_was(
    target, observed, tmp_path, settings, monkeypatch, capsys
):
    settings.STATE_DIR = tmp_path
    (tmp_path / "engines.json").write_text(json.dumps({"demo": 8100, "gone": 8101}))
    (tmp_path / "spool" / "demo-8100").mkdir(parents=True)
    observe(observed(replica="demo-8100"))
    observe(observed(replica="by-hand-8100"))
    monkeypatch.setattr("sys.argv", ["prepare", "--demo", "none"])
    for _ in range(2):  # at every start
        prepare.main()
        assert [engine["slug"] for engine in json.loads(capsys.readouterr().out)["engines"]] == ["demo"]
        assert sorted(target.replicas.values_list("name", flat=True)) == ["by-hand-8100", "demo-embedded"]
    assert (tmp_path / "spool" / "demo-embedded").is_dir()
