"""The demo domains by name."""

from serving.demo.domains.arithmetic import Arithmetic
from serving.demo.domains.base import Domain
from serving.demo.domains.json_tools import JsonTools
from serving.demo.domains.prose import Prose
from serving.demo.domains.python_code import PythonCode
from serving.demo.domains.sql import Sql

DOMAINS: dict[str, Domain] = {
    domain.name: domain for domain in (PythonCode(), Prose(), Arithmetic(), Sql(), JsonTools())
}


def get_domain(name: str) -> Domain:
    """Return the domain called `name`; raises ValueError naming it and the known ones."""
    if name not in DOMAINS:
        raise ValueError(f"unknown domain {name!r}; known domains: {', '.join(sorted(DOMAINS))}")
    return DOMAINS[name]
