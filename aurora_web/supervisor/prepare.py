"""What must be true in the database before the processes start: ``python -m aurora_web.supervisor.prepare``.

Runs in a process of its own, because the supervisor itself knows no Django. Prints one JSON object: ``replica_token``,
``engines`` (what ``GET /api/v1/engines`` says) and, where there is no admin yet, ``invite`` (a one-time link).
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import django

from aurora_web.supervisor import names, ports
from aurora_web.supervisor.demo import NONE

ACTOR = "supervisor"
# Traffic of the demo targets: day 0 on a part of the domains, then a hard shift, then everything; again and again.
DEMOS: dict[str, dict[str, Any]] = {
    "smollm2": {
        "name": "SmolLM2 135M Instruct",
        "settings": {
            # What one more slice teaches a real LLM's draft is soon less than the gate can tell from chance.
            "slice_seconds": 16.0,
            "traffic_schedule": [
                {"seconds": 1200, "mix": {"explain_code": 1, "write_code": 1, "sql_schema": 1}},
                {"seconds": 1200, "mix": {"rewrite_docs": 1, "extract_json": 1, "chat": 1}},
                {"seconds": 1200, "mix": {}},
            ],
        },
    },
    "pocket": {
        "name": "Pocket target",
        "settings": {
            "traffic_schedule": [
                {"seconds": 240, "mix": {"sql": 1, "arithmetic": 1}},
                {"seconds": 240, "mix": {"json_tools": 1}},
                {"seconds": 240, "mix": {"sql": 1, "arithmetic": 1, "json_tools": 1}},
            ]
        },
    },
}
TRAFFIC = {"traffic_concurrency": 4, "traffic_sampled_share": 0.5, "traffic_max_tokens": 128}
CONTROL_SHARE = 0.10  # five times the usual one: intervals that mean something within minutes


def main() -> None:
    """Migrate, make sure of the demo target and of the replicas' token, and print what the supervisor needs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", required=True, choices=[*DEMOS, NONE], help="the demo target that is to run")
    parser.add_argument("--before", default="", help="the one that ran at the last start")
    given = parser.parse_args()
    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from aurora_web.registry.services import embedded_engines

    call_command("migrate", interactive=False, verbosity=0)
    state_dir = Path(settings.STATE_DIR)
    _follow_demo(given.demo, given.before, state_dir / "models")
    _rename_engines(state_dir, ports.read(state_dir / "engines.json"))
    invite = io.StringIO()
    call_command("invite_admin", if_none=True, stdout=invite)
    answer = {
        "replica_token": _replica_token(state_dir),
        "invite": invite.getvalue().strip(),
        "engines": embedded_engines(),
    }
    json.dump(answer, sys.stdout)


def _follow_demo(name: str, before: str, models: Path) -> None:
    """Register the demo target at the first start, or where another one is asked for than at the last.

    Then the others retire. What an operator did to a demo target since stays: nothing happens at any other start.
    """
    from aurora_web.registry.models import Target
    from aurora_web.registry.services import change_settings

    is_first = not before and not Target.objects.exists()
    if not (is_first or (before and before != name)):
        return
    for other in Target.objects.filter(created_by=ACTOR, slug__in=DEMOS.keys() - {name}, is_active=True):
        change_settings(other, {"is_active": False}, ACTOR)
    if name == NONE:
        return
    there = Target.objects.filter(slug=name).first()
    if there is None:
        _register(name, models / name)
    elif there.created_by == ACTOR:
        change_settings(there, {"is_active": True}, ACTOR)


def _register(name: str, folder: Path) -> None:
    from aurora_web.registry.services import change_settings, register_target

    demo = register_target(
        path=str(folder),
        slug=name,
        name=DEMOS[name]["name"],
        actor=ACTOR,
        is_traffic_enabled=True,
        control_share=CONTROL_SHARE,
    )
    change_settings(demo, TRAFFIC | DEMOS[name]["settings"], ACTOR)


def _rename_engines(state_dir: Path, kept: dict[str, int]) -> None:
    """Once, after an upgrade: engines had their port in their name, and are the same replicas without it."""
    from aurora_web.registry.services import embedded_engines
    from aurora_web.rollouts.models import Replica

    for slug in kept.keys() & {engine["slug"] for engine in embedded_engines()}:
        former, name = names.former_name(slug, kept[slug]), names.replica_name(slug)
        names.take_over(state_dir, former, name)
        rows = Replica.objects.filter(target__slug=slug)
        if not rows.filter(name=name).exists():
            rows.filter(name=former).update(name=name)


def _replica_token(state_dir: Path) -> str:
    """The token that this machine's engines and traffic use; kept in a file that only its owner reads."""
    from aurora_web.accounts.services import authenticate_token, create_token

    path = state_dir / "replica_token"
    if path.exists() and authenticate_token(path.read_text()) is not None:
        return path.read_text()
    _, secret = create_token("this machine's engines", "replica", actor=ACTOR)
    path.touch(mode=0o600)
    path.write_text(secret)
    return secret


if __name__ == "__main__":
    main()
