"""The demo domains by name."""

from serving.traffic.domains.arithmetic import Arithmetic
from serving.traffic.domains.base import Domain
from serving.traffic.domains.json_tools import JsonTools
from serving.traffic.domains.prose import Prose
from serving.traffic.domains.python_code import PythonCode
from serving.traffic.domains.sql import Sql

DOMAINS: dict[str, Domain] = {
    domain.name: domain for domain in (PythonCode(), Prose(), Arithmetic(), Sql(), JsonTools())
}


def get_domain(name: str) -> Domain:
    """Return the domain called `name`; raises ValueError naming it and the known ones."""
    if name not in DOMAINS:
        raise ValueError(f"unknown domain {name!r}; known domains: {', '.join(sorted(DOMAINS))}")
    return DOMAINS[name]
