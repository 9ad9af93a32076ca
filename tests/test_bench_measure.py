"""bench's method on scripted times: order, warm-up, what fails and what is interrupted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest

from repvgg_deploy.bench.doubts import doubts
from repvgg_deploy.bench.measure import MOST_ROUNDS, Timing, measure
from repvgg_deploy.bench.warm_up import WarmUp
from repvgg_deploy.errors import UserError


class FakeClock:
    """Time that only scripted steps move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def step(self, label: str, seconds: Iterable[float]) -> Callable[[], None]:
        times = iter(seconds)

        def run() -> None:
            self.log.append(label)
            self.now += next(times)

        return run

    def steady(self, label: str, seconds: float) -> Callable[[], None]:
        return self.step(label, itertools.repeat(seconds))


def test_every_pair_of_rounds_goes_to_and_fro_from_a_drawn_order() -> None:
    clock = FakeClock()
    steps = {label: clock.steady(label, s) for label, s in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    timing = measure(steps, duration=600.0, seed=4, clock=clock)
    rounds = ["".join(clock.log[i : i + 3]) for i in range(0, len(clock.log), 3)]
    measured = rounds[timing.warm_up_rounds :]
    assert all(t == b[::-1] for t, b in zip(measured[::2], measured[1::2], strict=True))
    assert set(measured[::2]) == {"abc", "acb", "bac", "bca", "cab", "cba"}
    again = FakeClock()
    steps = {label: again.steady(label, s) for label, s in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    measure(steps, duration=600.0, seed=4, clock=again)
    assert again.log == clock.log  # the seed tells the order
    assert timing.seed == 4


def test_warm_up_and_measurement_share_the_duration() -> None:
    clock = FakeClock()
    steps = {"a": clock.steady("a", 0.0625), "b": clock.steady("b", 0.1875)}
    timing = measure(steps, 6.5, clock=clock)  # 26 rounds of a quarter of a second
    assert timing.unsteady == []
    assert timing.warm_up_rounds == 6  # two blocks of three
    assert timing.seconds == {"a": [0.0625] * 20, "b": [0.1875] * 20}
    assert clock.now == 100 + 6.5


@pytest.mark.parametrize("duration", [0.001, 1.0, 150.0])
def test_slow_steps_are_measured_twice_however_short_the_duration(duration: float) -> None:
    clock = FakeClock()
    steps = {"a": clock.steady("a", 60.0), "b": clock.steady("b", 90.0)}
    timing = measure(steps, duration, clock=clock)
    assert timing.seconds == {"a": [60.0, 60.0], "b": [90.0, 90.0]}
    assert timing.warm_up_rounds == 1
    assert timing.unsteady == ["a", "b"]  # one round shows nothing
    assert doubts(timing)[0] == "not seen to get steady in 1 round of warm-up: a; b"


def test_warm_up_lasts_until_two_blocks_agree() -> None:
    clock = FakeClock()
    cold = [i / 128 for i in (64, 32, 16, 12, 10, 9)]  # medians of three: 32 and 10
    steps = {"a": clock.step("a", [*cold, *itertools.repeat(8 / 128, 200)])}
    timing = measure(steps, duration=7.5, clock=clock)
    assert timing.warm_up_rounds == 12  # 8 after 10 is not alike, 8 after 8 is
    assert timing.unsteady == []
    assert set(timing.seconds["a"]) == {8 / 128}


def test_long_rounds_are_blocks_of_their_own() -> None:
    clock = FakeClock()
    steps = {"a": clock.step("a", [4.0, 2.0, 1.5, 1.25, 1.1875, *itertools.repeat(1.0, 90)])}
    timing = measure(steps, duration=60.0, clock=clock)
    assert timing.warm_up_rounds == 7  # 1.25 to 1.1875 are 5.3 %, 1.1875 to 1 more
    assert timing.unsteady == []


def test_a_fast_step_is_not_hidden_by_a_slow_one() -> None:
    """A sum over the round would call this steady at once: within 1 %."""
    clock = FakeClock()
    cold = [i / 1024 for i in (8, 6, 4, 3, 2, 2)]
    steps = {
        "slow": clock.steady("slow", 0.25),
        "fast": clock.step("fast", [*cold, *itertools.repeat(1 / 1024, 500)]),
    }
    timing = measure(steps, duration=30.0, clock=clock)
    assert timing.warm_up_rounds == 12
    assert set(timing.seconds["fast"]) == {1 / 1024}


def test_a_step_that_keeps_moving_is_named() -> None:
    clock = FakeClock()
    growing = (1.2**i for i in itertools.count())
    steps = {"a": clock.steady("a", 1.0), "b": clock.step("b", growing)}
    timing = measure(steps, duration=300.0, clock=clock)
    assert timing.unsteady == ["b"]
    assert timing.warm_up_rounds == 16  # n + 5 (1.2^n - 1) seconds: 87 after 15, 103 after 16
    found = doubts(timing)
    assert found[0] == "not seen to get steady in 16 rounds of warm-up: b"
    assert not any(doubt.startswith("a ") for doubt in found)


def test_noise_is_steady() -> None:
    """Medians of the blocks are 1.0 and 1.3, and the later one's quartiles 1.1 and 1.45."""
    warm_up = WarmUp(["a"], shortest=0.0, start=0.0)
    for number, seconds in enumerate([0.8, 1.0, 1.4, 0.9, 1.3, 1.6]):
        assert warm_up.unsteady == ["a"]
        warm_up.add({"a": seconds}, number / 100)
    assert warm_up.unsteady == []  # 0.3 apart, and two notches are 2 x 1.57 x 0.35 / sqrt 3 = 0.63


@pytest.mark.parametrize(("fall", "steady"), [(1.0, True), (0.85, False)])
def test_a_fall_within_the_spread_of_many_samples_is_seen(fall: float, steady: bool) -> None:
    """Blocks of 100 from 0.75 to 1.25, and 0.15 less: within the later interquartile range, 0.21,
    and beyond two notches, 0.07."""
    warm_up = WarmUp(["a"], shortest=1.0, start=0.0)
    for i in range(200):
        noise = 0.75 + (37 * i % 100) / 200
        warm_up.add({"a": noise * (fall if i >= 100 else 1.0)}, (i + 1) / 100)
    assert (warm_up.unsteady == []) is steady


def test_a_block_lasts_as_long_as_it_has_to() -> None:
    """Microseconds say nothing about clocks that take milliseconds to rise."""
    warm_up = WarmUp(["a"], shortest=1.0, start=0.0)
    for i in range(1, 200):
        warm_up.add({"a": 0.01}, i * 0.01)
        assert warm_up.unsteady == ["a"]
    warm_up.add({"a": 0.01}, 2.0)
    assert warm_up.unsteady == []


def failing(after: int, error: BaseException) -> Callable[[], None]:
    calls = itertools.count()

    def run() -> None:
        if next(calls) >= after:
            raise error

    return run


class RuntimeOfItsOwn(Exception):
    """ONNX Runtime's errors and CUDA's derive from Exception alone."""


@pytest.mark.parametrize("after", [0, 3, 20])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("CUDA is gone"), "RuntimeError: CUDA is gone"),
        (MemoryError(), "MemoryError: no reason given"),
        (UserError("it is bad."), "UserError: it is bad."),
        (RuntimeOfItsOwn("Fail : 1"), "RuntimeOfItsOwn: Fail : 1"),
    ],
)
def test_a_step_that_fails_does_not_stop_the_others(
    after: int, error: Exception, reason: str
) -> None:
    clock = FakeClock()
    crash = failing(after, error)

    def step() -> None:
        crash()
        clock.now += 1.0

    timing = measure({"bad": step, "good": clock.steady("good", 1.0)}, 60.0, clock=clock)
    assert [(one.label, one.reason) for one in timing.failures] == [("bad", reason)]
    assert list(timing.seconds) == ["good"]
    assert len(timing.seconds["good"]) >= 20
    assert timing.unsteady == []


def test_all_fail() -> None:
    timing = measure({"a": failing(0, RuntimeError()), "b": failing(9, RuntimeError())}, 0.05)
    assert timing.seconds == {}
    assert {one.label for one in timing.failures} == {"a", "b"}


@pytest.mark.parametrize("told", [float("nan"), -1.0, 0.0, float("inf")])
def test_a_clock_that_tells_no_time_is_a_failure(told: float) -> None:
    timing = measure({"a": lambda: told, "b": lambda: 1e-3}, 0.05)
    assert timing.failures[0].label == "a"
    assert "its clock told" in timing.failures[0].reason
    assert set(timing.seconds["b"]) == {1e-3}


def test_a_step_may_tell_the_seconds_that_its_device_measured() -> None:
    clock = FakeClock()

    def on_device() -> float:
        clock.now += 1.0  # launch and wait
        return 0.25

    timing = measure({"a": on_device, "b": clock.steady("b", 1.0)}, 60.0, clock=clock)
    assert set(timing.seconds["a"]) == {0.25}
    assert set(timing.seconds["b"]) == {1.0}


def test_an_interruption_keeps_what_was_measured() -> None:
    clock = FakeClock()
    stop = failing(16, KeyboardInterrupt())

    def step() -> None:
        stop()
        clock.now += 1.0

    timing = measure({"a": clock.steady("a", 1.0), "b": step}, 90.0, clock=clock)
    assert timing.interrupted
    assert timing.warm_up_rounds == 2
    assert timing.seconds["b"] == [1.0] * 14
    assert len(timing.seconds["a"]) in (14, 15)  # the round may have begun with it
    assert doubts(timing) == []  # what was measured is as good as any


def test_an_interruption_of_the_warm_up_leaves_nothing() -> None:
    timing = measure({"a": failing(0, KeyboardInterrupt())}, 1.0)
    assert timing.interrupted
    assert timing.seconds == {}
    assert timing.failures == []


def test_progress_grows_to_the_end_and_is_told_seldom() -> None:
    clock = FakeClock()
    shares: list[float] = []
    steps = {label: clock.steady(label, 0.01) for label in "ab"}
    measure(steps, duration=20.0, clock=clock, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert 100 < len(shares) <= 201  # 2,000 steps, and once in a tenth of a second at most


def test_steps_of_microseconds_end_with_enough_rounds() -> None:
    clock = FakeClock()
    timing = measure({"a": clock.steady("a", 1e-6)}, 1.0, clock=clock)
    assert len(timing.seconds["a"]) == MOST_ROUNDS
    assert clock.now < 100 + 0.1


def test_few_rounds_are_doubted() -> None:
    few = Timing(0, seconds={"a": [1.0] * 5, "b": [1.0] * 5})
    assert doubts(few) == ["there are 5 rounds, and an interval takes 6; give a longer --duration"]
    assert doubts(Timing(0, seconds={"a": [1.0] * 6})) == []


def test_drift_is_doubted() -> None:
    found = doubts(Timing(0, seconds={"a": [1.0] * 12 + [2.0] * 12, "b": [1.0] * 24}))
    assert found == ["a drifted: the second half of its times is 2.00 times the first"]


def test_a_step_that_differs_from_itself_is_doubted() -> None:
    found = doubts(Timing(0, seconds={"a": [1.0, 1.0, 1.5, 1.5] * 6}))
    assert found == ["a differs from itself: every other pair of rounds is 1.50 times the rest"]
