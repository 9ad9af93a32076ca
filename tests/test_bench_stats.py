"""Statistics of timings against values worked out by hand, and intervals by simulation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from repvgg_deploy.bench import bootstrap
from repvgg_deploy.bench.bootstrap import Times, block_length, independent_samples, memory, ranks
from repvgg_deploy.bench.doubts import doubts
from repvgg_deploy.bench.measure import Step, Timing, measure
from repvgg_deploy.bench.stats import (
    Ratio,
    against_itself,
    change,
    drift,
    relative_change,
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
    ratios,
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
    assert coverage(ratios(noise, rounds, 100, paired=True)) >= 93


def test_runs_measured_apart() -> None:
    assert coverage(ratios(independent, 60, 100, paired=False)) >= 93


def test_blocks_are_for_noise_that_lasts() -> None:
    """Drawn one by one, samples that are like their neighbours give 73 of 100; in blocks of a
    length that does not know how long the noise lasts, 88."""

    def lasting(rng: np.random.Generator, rounds: int) -> Times:
        return autoregressive(rng, rounds, 0.6)

    assert coverage(ratios(lasting, 200, 200, paired=True)) >= 89


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
    """Rounds in pairs: 1 1 2 2 1 1 2 2 differ, 1 2 1 2 do not."""
    found = against_itself([1.0, 1.0, 2.0, 2.0] * 3)
    assert (found.ratio, found.steady) == (Ratio(0.5, 0.5, 0.5), False)
    assert against_itself([1.0, 2.0] * 12).steady
    assert against_itself([1.0]).steady


@pytest.mark.parametrize("subjects", [2, 3])
def test_a_subject_that_is_faster_right_after_itself_is_one_and_the_same(subjects: int) -> None:
    """To and fro, a label follows itself more often in odd rounds than in even ones."""
    labels, rng = [f"{i}" for i in range(subjects)], np.random.default_rng(0)
    flagged = 0
    for seed in range(100):
        clock = ClockWithCaches(rng)
        steps: dict[str, Step] = {label: partial(clock.run, label) for label in labels}
        timing = measure(steps, 1.0, seed=seed, clock=clock)
        flagged += any(not against_itself(times).steady for times in timing.seconds.values())
    assert flagged <= 3


class ClockWithCaches:
    """A step of 5 ms, 10 % less right after itself, with a noise of 2 %."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.now, self._rng, self._last = 0.0, rng, ""

    def __call__(self) -> float:
        return self.now

    def run(self, label: str) -> None:
        self.now += 0.005 * self._rng.lognormal(0, 0.02) * (0.9 if label == self._last else 1)
        self._last = label


def doubted(series: Callable[[], list[float]], contests: int) -> int:
    """How many contests of six subjects show any doubt."""
    return sum(
        bool(doubts(Timing(0, seconds={f"{i}": series() for i in range(6)})))
        for _ in range(contests)
    )


@pytest.mark.parametrize("rounds", [12, 24, 60])
@pytest.mark.parametrize("spread", [0.05, 0.3])
def test_noise_is_no_doubt(monkeypatch: pytest.MonkeyPatch, rounds: int, spread: float) -> None:
    """In at most 5 % of contests of six, by design 4.7; 9 of 100 or fewer with a chance of 97 %."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 10)  # the intervals are not looked at
    rng = np.random.default_rng(2)
    assert doubted(lambda: rng.lognormal(0, spread, rounds).tolist(), 100) <= 9


@pytest.mark.parametrize(("rounds", "spread"), [(24, 0.02), (60, 0.05), (200, 0.1)])
def test_a_machine_that_slows_down_is_doubted(
    monkeypatch: pytest.MonkeyPatch, rounds: int, spread: float
) -> None:
    """By 10 % from the beginning to the end, so 5 % from half to half."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 10)
    rng, slower = np.random.default_rng(2), np.linspace(1, 1.1, rounds)
    assert doubted(lambda: list(slower * rng.lognormal(0, spread, rounds)), 20) >= 19


def test_ranks_by_hand() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 9.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_noise_that_lasts_by_hand() -> None:
    """Ranks 1 to 16 about 8.5: 276.25 of 340. They tell as much as 16 (1 - r) / (1 + r) apart, and
    (6 x 16 (r / (1 - r^2))^2)^(1/3) = 8.2 is more than a third of them."""
    times = np.arange(1.0, 17.0)
    assert memory(times) == pytest.approx(0.8125)
    assert independent_samples(times) == pytest.approx(1.655, abs=1e-3)
    assert block_length(times) == 5
    assert memory(np.array([1.0, 2.0] * 30)) == 0  # unlike its neighbours
    assert memory(np.full(60, 3.0)) == 0
    assert block_length(np.full(1000, 3.0)) == 5


def test_lasting_noise_takes_long_blocks_and_tells_less() -> None:
    rng = np.random.default_rng(1)
    independent_ones = rng.lognormal(0, 0.05, 1000)
    lasting = autoregressive(rng, 1000, 0.9)[0]
    assert independent_samples(independent_ones) == 1000
    assert 30 < independent_samples(lasting) < 80  # 1000 / 19
    assert 40 < block_length(lasting) < 65  # (sqrt(6) 0.9 / 0.19)^(2/3) 10 = 51
    assert memory(np.where(rng.random(1000) < 0.05, 1e3, lasting)) > 0.7  # outliers hide nothing


def test_noise_that_lasts_too_long_gives_no_interval() -> None:
    rising = [1 + i / 100 for i in range(30)]
    assert change(rising, rising) == Ratio(1.0, None, None)
    assert speedup(rising, [1.0] * 30).low is None
    assert speedup(rising, rising) == Ratio(1.0, 1.0, 1.0)  # what both share is no noise of a ratio


def test_a_relative_change_by_hand() -> None:
    """The machine takes twice as long; the candidate a tenth more than that."""
    found = relative_change(([2.0] * 6, [1.0] * 6), ([4.0] * 6, [2.2] * 6))
    assert (found.value, found.low, found.high) == pytest.approx((1.1, 1.1, 1.1))


def test_as_many_samples_as_there_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 150)
    series = list(np.random.default_rng(0).lognormal(0, 0.1, 10_000))
    ratio = speedup(series, series)
    assert ratio == Ratio(1.0, 1.0, 1.0)
