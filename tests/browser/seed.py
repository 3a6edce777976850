"""``python -m tests.browser.seed SLUG``: a further version by the registry's own service, judged by the gate.

For targets whose servers a test plays: its files are those of the version before, its replay is told, not measured.
Prints the number. Everything after the trainer (gate, mail, inbox, push) is the real thing, minutes earlier.
"""

from __future__ import annotations

import shutil
import sys
import uuid
from pathlib import Path

import django

GAIN = 1.15
TRACES, STEPS = 60, 30


def score(accept_length: float):
    from speculators.records import DomainScore

    tokens = round(STEPS * accept_length)
    return DomainScore(
        domain="sql",
        num_traces=TRACES,
        num_verify_steps=TRACES * STEPS,
        num_correct_drafts=TRACES * (tokens - STEPS),
        num_accept_tokens=TRACES * tokens,
        num_proposed_drafts=TRACES * STEPS * 4,
        sum_xx=float(TRACES * tokens**2),
        sum_yy=float(TRACES * STEPS**2),
        sum_xy=float(TRACES * tokens * STEPS),
    )


def main(slug: str) -> int:
    from aurora_web.registry.services import find_target, find_version, register_version
    from speculators.records import EvalReport, VersionManifest

    target = find_target(slug)
    parent = find_version(target, "@live")
    assert parent is not None, f"{slug} has no live version"
    before = parent.accept_length() or 1.2
    uri = Path(parent.uri).with_name(f"seeded-{uuid.uuid4().hex}")
    shutil.copytree(parent.uri, uri)
    manifest = VersionManifest(
        target=slug,
        number=0,
        parent=parent.number,
        uri=str(uri),
        sha256=uuid.uuid4().hex * 2,
        size_bytes=parent.size_bytes,
        config=parent.config,
        provenance=parent.provenance | {"step": parent.provenance.get("step", 0) + 10},
    )
    scores = {"candidate": (score(before * GAIN),), "live": (score(before),)}
    report = EvalReport(**scores, lookahead=4, loss=1.0, seconds=0.1, live_uri=parent.uri)
    return register_version(target, manifest, report, "trainer").number


if __name__ == "__main__":
    django.setup()
    print(main(sys.argv[1]))
