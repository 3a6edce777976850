"""The domains of the traffic by name, in two groups."""

from serving.traffic.domains.arithmetic import Arithmetic
from serving.traffic.domains.base import Domain, GeneratedDomain, RealDomain
from serving.traffic.domains.chat import Chat
from serving.traffic.domains.explain_code import ExplainCode
from serving.traffic.domains.extract_json import ExtractJson
from serving.traffic.domains.json_tools import JsonTools
from serving.traffic.domains.rewrite_docs import RewriteDocs
from serving.traffic.domains.sql import Sql
from serving.traffic.domains.sql_schema import SqlSchema
from serving.traffic.domains.write_code import WriteCode

# Real prompts, for any target that follows instructions: what a plan without a mix means
REAL: dict[str, RealDomain] = {
    domain.name: domain for domain in (ExplainCode(), WriteCode(), RewriteDocs(), SqlSchema(), ExtractJson(), Chat())
}
# What the pocket target was trained to answer
POCKET: dict[str, GeneratedDomain] = {domain.name: domain for domain in (Arithmetic(), Sql(), JsonTools())}

DOMAINS: dict[str, Domain] = {**REAL, **POCKET}


def get_domain(name: str) -> Domain:
    """Return the domain called `name`; raises ValueError naming it and the known ones."""
    if name not in DOMAINS:
        raise ValueError(f"unknown domain {name!r}; known domains: {', '.join(sorted(DOMAINS))}")
    return DOMAINS[name]
