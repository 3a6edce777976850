"""The models that benchmarks run on, and prompts for each in its own chat template."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

from serving.http.tokenizer import TargetTokenizer
from serving.model_sources.registry import SOURCES
from serving.traffic.domains.base import Split
from serving.traffic.domains.registry import POCKET, REAL

CACHE = Path(__file__).parent / "output" / "models"


def prepared(name: str) -> Path:
    """The directory of a named package, made once for all runs."""
    return SOURCES[name].prepare(CACHE / name, lambda line: print(line, file=sys.stderr))


def prompts(name: str, per_domain: int, seed: int = 99, split: Split = "heldout") -> dict[str, list[tuple[int, ...]]]:
    """{domain: prompts as tokens}: the domains that the demo of this model sends."""
    tokenizer = TargetTokenizer(prepared(name))
    domains = POCKET if name == "pocket" else REAL
    return {
        domain: [
            tokenizer.encode_chat([{"role": "user", "content": prompt.message}])
            for prompt in islice(source.prompts(seed, split), per_domain)
        ]
        for domain, source in domains.items()
    }
