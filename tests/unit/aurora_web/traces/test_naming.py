"""What a change of the rules for names takes from a domain."""

from datetime import timedelta

import pytest
from django.utils import timezone

from aurora_web.traces import domains
from aurora_web.traces.models import DomainRule
from aurora_web.traces.naming import Naming, NamingHistory, loss


def naming(*rules):
    """Naming("prefix json_ -> json", ...), in the order in which they are tried."""
    kinds = [rule.split() for rule in rules]
    return Naming([DomainRule(kind=kind, pattern=pattern, domain=domain) for kind, pattern, _, domain in kinds])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], ["exact sql -> data"]),
        (["prefix json_ -> json"], ["prefix json_ -> json"]),
        (["exact a -> json"], ["prefix a -> json"]),
        (["exact a -> json", "prefix a -> json"], ["prefix a -> json"]),
        (["prefix json_ -> json"], ["prefix js -> json"]),
        (["prefix json_ -> json"], ["exact js -> other", "prefix json_ -> json"]),
        (["prefix json_ -> json"], ["regex json_.* -> json"]),
        (["regex (json|yaml)_.* -> json"], ["prefix json_ -> json", "prefix yaml_ -> json"]),
        (["exact json_x -> other", "prefix json_ -> json"], ["exact json_x -> third", "prefix json_ -> json"]),
        (["exact json -> json"], []),  # clients call it so themselves
    ],
)
def test_what_leaves_every_name_with_its_domain_is_no_loss(before, after):
    assert loss("json", naming(*before), naming(*after)) is None


@pytest.mark.parametrize(
    ("before", "after", "lost_by", "is_ended", "kept_as"),
    [
        (["exact a -> json"], [], "exact a -> json", True, "a"),
        (["exact a -> json", "exact b -> json"], ["exact b -> json"], "exact a -> json", True, "a"),
        (["prefix json_ -> json"], ["prefix json_ -> other"], "prefix json_ -> json", True, "other"),
        (["prefix json -> json"], [], "prefix json -> json", True, "jsona"),
        ([], ["exact json -> other"], "None", False, "other"),
        ([], ["regex j.* -> other"], "None", False, "other"),
        (
            ["prefix json_ -> json"],
            ["exact json_x -> other", "prefix json_ -> json"],
            "prefix json_ -> json",
            False,
            "other",
        ),
        (
            ["prefix json_ -> json"],
            ["prefix json_x -> other", "prefix json_ -> json"],
            "prefix json_ -> json",
            False,
            "other",
        ),
        (["regex (json|yaml)_.* -> json"], ["prefix json_ -> json"], "regex (json|yaml)_.* -> json", True, "yaml_"),
        (
            ["regex json_.* -> json"],
            ["prefix json_ -> other", "regex json_.* -> json"],
            "regex json_.* -> json",
            False,
            "other",
        ),
    ],
)
def test_what_takes_a_name_away_is_a_loss_and_says_by_what(before, after, lost_by, is_ended, kept_as):
    found = loss("json", naming(*before), naming(*after))
    assert (str(found.lost_by), found.is_ended, found.kept_as) == (lost_by, is_ended, kept_as)


@pytest.mark.django_db
def test_the_rules_of_a_moment_are_those_that_held_then(target, django_assert_num_queries):
    [first] = domains.add_rules(target, "exact", ["a"], "json", "ada")
    began = timezone.now()
    domains.add_rules(target, "exact", ["a"], "other", "ada")
    between = timezone.now()
    [third] = domains.add_rules(target, "prefix", ["a"], "json", "ada")
    with django_assert_num_queries(1):
        rules = NamingHistory(target, began)
        then, later = rules.at(began), rules.at(between)
        assert [rule.pk for rule in then.rules] == [first.pk]
        assert (then.kept_as("a"), later.kept_as("a"), rules.now.kept_as("ab")) == ("json", "other", "json")
        assert rules.at(timezone.now()) is rules.now
    assert third in rules.now.rules
    late = NamingHistory(target, timezone.now() + timedelta(hours=1))
    assert [rule.pk for rule in late.now.rules] == [rule.pk for rule in domains.active_rules(target)]
