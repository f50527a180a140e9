"""Whether starts agree: means and errors by hand, how often chance misleads, and what few walkers can say."""

import json

import numpy as np
import pytest

from openmm_bg.errors import InputError
from openmm_bg.simulation import compare_starts

FOUR_AND_FOUR = ("native", "extended") * 4


def test_means_and_errors_by_hand():
    series = np.array([[1.0, 5.0, 3.0, 6.0], [3.0, 5.0, 5.0, 8.0]])
    found = compare_starts(series, ["a", "b", "a", "b"])
    assert found.means == {"a": (3.0, 1.0), "b": (6.0, 1.0)}  # walkers: 2 and 4, 5 and 7
    assert found.n_walkers == {"a": 2, "b": 2}
    (difference,) = found.differences
    assert (difference.first, difference.second) == ("a", "b")
    assert difference.value == pytest.approx((-3.0, np.sqrt(2)))
    assert difference.n_errors == pytest.approx(-3 / np.sqrt(2))
    assert found.spread == pytest.approx(series.std())


def test_two_walkers_each_need_larger_differences():
    """Student with two degrees of freedom, by its closed form: P(|t| > x) = 1 - x / sqrt(2 + x^2)."""
    (difference,) = compare_starts([[2.0, 5.0, 4.0, 7.0]], ["a", "b", "a", "b"]).differences
    inside = 0.9544997361036416  # of the normal distribution within two standard deviations
    limit = inside * np.sqrt(2 / (1 - inside**2))
    assert difference.resolution == pytest.approx(limit * np.sqrt(2), rel=1e-6)
    assert difference.verdict == "unclear"  # 2.1 errors, of which 4.5 are needed


def test_chance_says_differ_as_rarely_as_it_should(rng):
    """Independent walkers of one distribution, unequal numbers."""
    starts = ["native"] * 4 + ["extended"] * 6
    verdicts = [compare_starts(x, starts).verdict for x in rng.standard_normal((2000, 20, 10))]
    assert 0.02 < verdicts.count("differ") / 2000 < 0.07  # 0.0455 of Student's distribution
    assert verdicts.count("agree") / 2000 > 0.8


def test_differences_are_found(rng):
    series = rng.standard_normal((200, 8))
    series[:, 1::2] += 1.0
    found = compare_starts(series, FOUR_AND_FOUR)
    assert found.verdict == "differ"
    assert "starts do not agree: not converged" in found.statement("x")


def test_walkers_that_are_stuck_do_not_agree(rng):
    """Each stays where it was at first: agreement would be luck, and is not claimed."""
    agree = 0
    for levels in rng.standard_normal((500, 8)):
        agree += compare_starts(levels + 0.1 * rng.standard_normal((50, 8)), FOUR_AND_FOUR).verdict == "agree"
    assert agree / 500 < 0.02


@pytest.mark.parametrize("n_each", [1, 2, 4])
def test_starts_that_were_never_left(n_each):
    """All of one start folded and none of the other: no scatter, and yet not the same."""
    found = compare_starts(np.tile([1.0, 0.0], (10, n_each)), ("native", "extended") * n_each)
    assert found.verdict == ("unclear" if n_each == 1 else "differ")


def test_one_walker_has_no_error():
    found = compare_starts([[1.0, 1.1, 1.3], [1.2, 1.0, 1.4]], ["a", "a", "b"])
    assert found.verdict == "unclear"
    assert found.means["b"] == (pytest.approx(1.35), np.inf)
    text = found.statement("rg")
    assert "too little data to tell whether starts agree (a single walker has no standard error)" in text
    record = json.loads(json.dumps(found.record("rg"), allow_nan=False))
    assert record["means"]["b"] == [pytest.approx(1.35), None]
    assert record["differences"][0]["resolution"] is None


def test_an_observable_that_never_changes_says_nothing():
    assert compare_starts(np.ones((5, 8)), FOUR_AND_FOUR).verdict == "unclear"


def test_three_starts_are_as_good_as_their_worst_pair(rng):
    series = 0.1 * rng.standard_normal((50, 12))
    series[:, 2::3] += 3.0
    found = compare_starts(series, ("a", "b", "c") * 4)
    verdicts = {(d.first, d.second): d.verdict for d in found.differences}
    assert verdicts["a", "c"] == verdicts["b", "c"] == "differ"
    assert found.verdict == "differ"


def test_statement():
    series = np.array([[1.0, 2.0, 3.0, 2.2], [3.0, 2.0, 1.0, 1.6]]).repeat(2, axis=1)
    text = compare_starts(series, ("a", "b") * 4).statement("Rg (nm)")
    assert text.startswith("Rg (nm): a 1.975 ± 0.025 (4 walkers), b ")
    assert "starts agree (" in text


@pytest.mark.parametrize(
    ("values", "starts", "message"),
    [
        (np.ones(4), ["a", "b"], r"shape \(n_frames, n_walkers\).*not \(4,\) and 2 starts"),
        (np.ones((4, 3)), ["a", "b"], r"not \(4, 3\) and 2 starts"),
        (np.ones((4, 3)), None, "and 0 starts"),
        (np.ones((0, 2)), ["a", "b"], "shape"),
        ([[1.0, np.nan]], ["a", "b"], "NaN"),
        (np.ones((4, 2)), ["a", "a"], "All walkers began from 'a'; a comparison needs at least two starts"),
    ],
)
def test_bad_input(values, starts, message):
    with pytest.raises(InputError, match=message):
        compare_starts(values, starts)
