"""What must be true in the database before the processes start: ``python -m aurora_web.supervisor.prepare``.

Runs in a process of its own, because the supervisor itself knows no Django. Prints one JSON object: ``replica_token``
and, where there is no admin yet, ``invite`` (a one-time link).
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import django

# Day 0 on requests with short answers, then a hard shift to real text, then everything at once; again and again.
DEMO_SCHEDULE = [
    {"seconds": 300, "mix": {"arithmetic": 1, "sql": 1, "json_tools": 1}},
    {"seconds": 300, "mix": {"python_code": 1, "prose": 1}},
    {"seconds": 300, "mix": {}},
]


def main() -> None:
    """Migrate, make sure of the demo target and of the replicas' token, and print what the supervisor needs."""
    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    call_command("migrate", interactive=False, verbosity=0)
    demo = Path(settings.STATE_DIR) / "models" / "pocket"
    _register_demo(str(demo))
    invite = io.StringIO()
    call_command("invite_admin", if_none=True, stdout=invite)
    answer = {"replica_token": _replica_token(Path(settings.STATE_DIR)), "invite": invite.getvalue().strip()}
    json.dump(answer, sys.stdout)


def _register_demo(path: str) -> None:
    """The demo target, with traffic on; only on the first start, so that an operator may retire it for good."""
    from aurora_web.registry.models import Target
    from aurora_web.registry.services import change_settings, register_target

    if not Target.objects.exists():
        demo = register_target(
            path=path,
            slug="pocket",
            name="Pocket target",
            actor="supervisor",
            is_traffic_enabled=True,
            control_share=0.15,
        )
        change_settings(demo, {"traffic_schedule": DEMO_SCHEDULE}, "supervisor")


def _replica_token(state_dir: Path) -> str:
    """The token that this machine's engines and traffic use; kept in a file that only its owner reads."""
    from aurora_web.accounts.services import authenticate_token, create_token

    path = state_dir / "replica_token"
    if path.exists() and authenticate_token(path.read_text()) is not None:
        return path.read_text()
    _, secret = create_token("this machine's engines", "replica", actor="supervisor")
    path.touch(mode=0o600)
    path.write_text(secret)
    return secret


if __name__ == "__main__":
    main()
