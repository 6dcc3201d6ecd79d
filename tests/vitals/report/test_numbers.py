"""Figures on the page have digits that mean something: no 0.0 for what is not zero, no 100% for less."""

from __future__ import annotations

import math

import pytest

from vitals.report.numbers import duration, number, percent, points


@pytest.mark.parametrize(
    ("value", "digits", "written"),
    [
        (0.0, 3, "0"),
        (-0.0, 3, "0"),
        (5.78e-7, 3, "5.78e−7"),
        (0.00099999, 3, "0.001"),
        (0.25431, 3, "0.254"),
        (999.7, 3, "1,000"),
        (149.6, 2, "150"),
        (12_817.3, 3, "12,817"),
        (9_999_999.9, 3, "1e7"),
        (math.inf, 3, "∞"),
    ],
)
def test_numbers_keep_their_significant_digits(value: float, digits: int, written: str) -> None:
    assert number(value, digits) == written


@pytest.mark.parametrize(
    ("share", "decimals", "written"),
    [
        (0.0, 1, "0%"),
        (-0.0, 2, "0%"),
        (1.0, 1, "100%"),
        (0.99999994, 1, "100%"),
        (0.9998, 1, "99.98%"),
        (0.0003, 1, "0.03%"),
        (-0.0003, 1, "−0.03%"),
        (2e-9, 2, "2e−7%"),
        (0.8312, 1, "83.1%"),
        (0.8312, 2, "83.12%"),
        (1.00002, 1, "100.002%"),
    ],
)
def test_shares_are_0_or_100_percent_only_where_they_are(share: float, decimals: int, written: str) -> None:
    assert percent(share, decimals) == written


@pytest.mark.parametrize(
    ("difference", "written"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (6e-8, "0"),
        (0.0002, "+0.02"),
        (-0.0002, "−0.02"),
        (-0.031, "−3.1"),
        (0.062, "+6.2"),
    ],
)
def test_differences_have_a_sign_where_there_is_any(difference: float, written: str) -> None:
    assert points(difference) == written


def test_less_than_a_second_is_not_no_time() -> None:
    assert [duration(seconds) for seconds in (0.428, 5.2, 62.0)] == ["0.43 s", "5 s", "1 min 2 s"]
