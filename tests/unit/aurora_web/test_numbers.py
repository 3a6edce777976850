"""How numbers are written: one way in sentences and on pages."""

from aurora_web import numbers
from aurora_web.console.templatetags import figures
from aurora_web.registry.provenance import words


def test_a_share_keeps_its_unit_on_its_line_and_has_a_real_minus():
    assert figures.signed_percent(0.573) == numbers.signed_percent(0.573) == "+57.3\u00a0%"
    assert numbers.signed_percent(-0.0667) == "\u22126.7\u00a0%"
    assert figures.percent(0.123) == numbers.percent(0.123) == "12.3\u00a0%"
    assert numbers.percent(0.4, 0) == "40\u00a0%"


def test_counts_have_a_separator_everywhere():
    assert figures.grouped(63242) == words(63242) == numbers.grouped(63242) == "63,242"
    assert figures.grouped(None) == figures.DASH
