"""Statistics of timings against values worked out by hand, and intervals by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from repvgg_deploy.bench import stats
from repvgg_deploy.bench.stats import (
    Ratio,
    against_itself,
    change,
    differs,
    drift,
    speedup,
    summarize,
    supports,
)

from .benchmarks.interval_coverage import (
    Noise,
    autoregressive,
    coverage,
    drifting,
    independent,
    walking,
    with_outliers,
)


def test_summary_by_hand() -> None:
    summary = summarize([float(i) for i in range(500, 0, -1)])  # 1..500, whatever the order
    assert (summary.samples, summary.minimum, summary.maximum) == (500, 1.0, 500.0)
    assert summary.median == 250.5
    assert (summary.q25, summary.q75) == (125.75, 375.25)  # 0.25 * 499 = 124.75, counted from 0
    assert summary.p90 == pytest.approx(450.1)
    assert summary.p95 == pytest.approx(475.05)
    assert summary.p99 == pytest.approx(495.01)
    assert summary.outliers == 0


def test_outliers_are_counted_and_kept() -> None:
    """Quartiles 2.5 and 7.5, so the upper fence is at 15."""
    summary = summarize([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15.0])
    assert (summary.q25, summary.q75) == (2.5, 7.5)
    assert summary.outliers == 0
    summary = summarize([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15.5])
    assert (summary.outliers, summary.maximum, summary.samples) == (1, 15.5, 11)
    assert summarize([1e-9, *[5.0] * 8, 9.0]).outliers == 2  # below too


@pytest.mark.parametrize(
    ("share", "enough"),
    [(0.90, 36), (0.95, 72), (0.99, 368)],  # ln 0.025 / ln share = 35.01, 71.92, 367.04
)
def test_percentiles_need_samples(share: float, enough: int) -> None:
    name = f"p{100 * share:.0f}"
    assert supports(enough, share)
    assert not supports(enough - 1, share)
    assert getattr(summarize([1.0] * enough), name) == 1.0
    assert getattr(summarize([1.0] * (enough - 1)), name) is None


def test_the_rule_of_percentiles_is_that_of_order_statistics() -> None:
    """With 36 samples the largest is beyond the true p90 in 97.7 of 100 repetitions."""
    rng = np.random.default_rng(0)
    beyond = rng.random((20_000, 36)).max(axis=1) > 0.9
    assert np.mean(beyond) == pytest.approx(1 - 0.9**36, abs=0.005)
    assert 1 - 0.9**36 >= 0.975 > 1 - 0.9**35


def test_ratio_of_constant_times_is_exact() -> None:
    assert speedup([3.0] * 7, [2.0] * 7) == Ratio(1.5, 1.5, 1.5)
    assert change([2.0] * 6, [3.0] * 9) == Ratio(1.5, 1.5, 1.5)


def test_few_samples_give_no_interval() -> None:
    assert speedup([3.0] * 5, [2.0] * 5) == Ratio(1.5, None, None)
    assert change([2.0] * 5, [3.0] * 600) == Ratio(1.5, None, None)


def test_a_round_that_was_cut_short_is_left_out() -> None:
    assert speedup([4.0, 4.0, 400.0], [2.0, 2.0]) == Ratio(2.0, None, None)


def test_the_same_seed_gives_the_same_interval() -> None:
    a, b = independent(np.random.default_rng(0), 50).tolist()
    assert speedup(a, b, seed=1) == speedup(a, b, seed=1) != speedup(a, b, seed=2)


def test_rounds_are_drawn_together() -> None:
    """What both share cancels: b is a, 1 % slower, however much they wander."""
    wander = np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.1, 60)))
    ratio = speedup(list(wander), list(1.01 * wander))
    assert ratio.low == pytest.approx(1 / 1.01)
    assert ratio.high == pytest.approx(1 / 1.01)


@pytest.mark.parametrize("noise", [independent, drifting, walking, with_outliers])
@pytest.mark.parametrize("rounds", [20, 60])
def test_two_steps_of_equal_speed(noise: Noise, rounds: int) -> None:
    """The interval holds 1 in at least 93 of 100 repetitions."""
    assert coverage(noise, rounds, 100, paired=True) >= 93


def test_runs_measured_apart() -> None:
    assert coverage(independent, 60, 100, paired=False) >= 93


def test_blocks_are_for_noise_that_lasts() -> None:
    """Drawn one by one, samples that are like their neighbours give 73 of 100."""

    def lasting(rng: np.random.Generator, rounds: int) -> stats.Times:
        return autoregressive(rng, rounds, 0.6)

    assert coverage(lasting, 200, 100, paired=True) >= 82


def test_an_interval_finds_a_difference() -> None:
    """A power of at least 95 in 100: 10 % at a spread of 5 % and 60 rounds."""
    rng, found = np.random.default_rng(3), 0
    for _ in range(100):
        a, b = independent(rng, 60)
        ratio = speedup(list(1.1 * a), list(b))
        assert ratio.low is not None
        found += ratio.low > 1
    assert found >= 95


def halves(first: float, second: float, spread: float) -> list[float]:
    noise = np.random.default_rng(1).lognormal(0, spread, 80)
    return list(noise * np.repeat([first, second], 40))


@pytest.mark.parametrize(
    ("seconds", "steady"),
    [
        (halves(1, 1, 0.05), True),
        (halves(1, 1.1, 0.05), False),
        (halves(1.1, 1, 0.05), False),
        (halves(1, 1.1, 0.8), True),  # no more than the spread explains
        (halves(1, 1.02, 0.001), True),  # sure, and too little to matter
        ([1.0, 9.0], True),  # nothing is known of the spread
        ([1.0], True),
    ],
)
def test_drift(seconds: list[float], steady: bool) -> None:
    assert drift(seconds).steady is steady


def test_drift_by_hand() -> None:
    """The middle one of an odd number is in neither half."""
    found = drift([4.0] * 6 + [100.0] + [2.0] * 6)
    assert found.ratio == Ratio(2.0, 2.0, 2.0)
    assert not found.steady


def test_a_against_a() -> None:
    assert against_itself([1.0, 2.0] * 6) == Ratio(0.5, 0.5, 0.5)
    rng = np.random.default_rng(1)
    flagged = sum(differs(against_itself(list(rng.lognormal(0, 0.05, 80)))) for _ in range(100))
    assert flagged <= 7


def test_as_many_samples_as_there_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 150)
    series = list(np.random.default_rng(0).lognormal(0, 0.1, 10_000))
    ratio = speedup(series, series)
    assert ratio == Ratio(1.0, 1.0, 1.0)
