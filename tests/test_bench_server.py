"""The server scenario on a scripted clock, against queueing theory and against sums by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from repvgg_deploy.bench.largest_rate import RESOLUTION, Search, highest_load, largest_rate
from repvgg_deploy.bench.server import Answer, Probe, by_size, serve, wait_until, work_off
from repvgg_deploy.errors import UserError


class Worker:
    """A clock that waiting and answering move; ``seconds`` an answer takes, by its size."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.now, self._seconds = 1000.0, seconds

    def __call__(self) -> float:
        return self.now

    def wait_until(self, moment: float) -> None:
        self.now = max(self.now, moment)

    def answer(self, size: int) -> None:
        self.now += self._seconds(size)

    def serve(self, rate: float, requests: int, seed: int = 0, batch: int = 1) -> Probe:
        return serve(
            self.answer, rate, requests,
            seed=seed, batch=batch, clock=self, wait_until=self.wait_until,
        )  # fmt: skip


def random_service(mean: float, seed: int = 1) -> Worker:
    """Exponential service times (M/M/1)."""
    draws = np.random.default_rng(seed)
    return Worker(lambda size: float(draws.exponential(mean)))


def test_latencies_by_hand() -> None:
    """Arrivals at 0, 1, 2, 10; 3 s each: answers at 3, 6, 9, 13."""
    worker = Worker(lambda size: 3.0)
    arrivals = [1000.0, 1001.0, 1002.0, 1010.0]
    latencies, batches = work_off(worker.answer, arrivals, 1, worker, worker.wait_until)
    assert latencies == [3.0, 5.0, 7.0, 3.0]
    assert batches == [1, 1, 1, 1]


def test_dynamic_batches_by_hand() -> None:
    """2 s + 1 s an image, 2 at most: [0] until 3, [1, 2] until 7, [2.5] until 10, [20] until 23."""
    worker = Worker(lambda size: 2.0 + size)
    arrivals = [1000.0, 1001.0, 1002.0, 1002.5, 1020.0]
    latencies, batches = work_off(worker.answer, arrivals, 2, worker, worker.wait_until)
    assert latencies == [3.0, 6.0, 5.0, 7.5, 3.0]
    assert batches == [1, 2, 1, 1]


def test_a_late_start_moves_no_arrival() -> None:
    """No coordinated omission: the worker comes 100 s late, and every request waited for it."""
    worker = Worker(lambda size: 1.0)
    latencies, _ = work_off(worker.answer, [900.0, 901.0], 1, worker, worker.wait_until)
    assert latencies == [101.0, 101.0]


@pytest.mark.parametrize("load", [0.3, 0.7, 0.9])
def test_the_mean_wait_is_that_of_an_m_d_1_queue(load: float) -> None:
    """Pollaczek-Khinchine: rho / (2 mu (1 - rho))."""
    service = 0.02
    probe = Worker(lambda size: service).serve(load / service, 100_000)
    expected = load * service / (2 * (1 - load))
    assert np.mean(probe.latencies) - service == pytest.approx(expected, rel=0.05)


def test_the_p99_is_that_of_an_m_m_1_queue() -> None:
    """The time in an M/M/1 queue is exponential with the rate mu - lambda."""
    probe = random_service(0.02).serve(30.0, 100_000)
    p99 = probe.served("scripted", "a", 1.0).p99
    assert p99 == pytest.approx(np.log(100) / (50 - 30), rel=0.05)


def test_the_same_seed_gives_the_same_pattern_at_every_rate() -> None:
    """Service times as short as the gaps: then the latencies scale too."""
    slow = Worker(lambda size: 1.0).serve(0.5, 500, seed=3)
    fast = Worker(lambda size: 0.25).serve(2.0, 500, seed=3)
    other = Worker(lambda size: 1.0).serve(0.5, 500, seed=4)
    assert np.array(fast.latencies) == pytest.approx(np.array(slow.latencies) / 4)
    assert other.latencies != slow.latencies


def test_what_stands_in_the_record() -> None:
    probe = Probe(rate=40.0, seed=5, batch=4, latencies=[0.1] * 1000, batches=[4] * 250)
    served = probe.served("torch-cpu", "fused", bound=0.1)
    assert (served.runtime, served.label, served.rate) == ("torch-cpu", "fused", 40.0)
    assert (served.requests, served.seed, served.batch) == (1000, 5, 4)
    assert (served.p50, served.p99, served.holds, served.bound) == (0.1, 0.1, True, 0.1)
    assert served.mean_batch == 4.0
    assert not probe.served("torch-cpu", "fused", bound=0.099).holds


def test_few_requests_have_no_p99_and_hold_nothing() -> None:
    served = Probe(1.0, 0, 1, [0.1] * 20, [1] * 20).served("torch-cpu", "fused", bound=1.0)
    assert served.p99 is None
    assert not served.holds


def search(worker: Worker, bound: float, requests: int = 20_000, batch: int = 1) -> Search:
    return largest_rate(
        worker.answer, bound, requests, batch=batch, clock=worker, wait_until=worker.wait_until
    )


def test_the_largest_rate_of_an_m_m_1_queue() -> None:
    """p99 = ln 100 / (mu - lambda), so the largest rate is mu - ln 100 / bound = 27 a second."""
    found = search(random_service(0.02), bound=0.2)
    assert found.largest is not None
    assert found.largest.rate == pytest.approx(50 - np.log(100) / 0.2, abs=3)
    failed = [probe.rate for probe in found.probes if not probe.holds(0.2)]
    assert found.largest.rate < min(failed) <= found.largest.rate + RESOLUTION * found.capacity
    assert len(found.probes) <= 8
    assert "requests/s" in found.verdict()


def test_a_loose_bound_is_held_as_far_as_the_requests_can_judge() -> None:
    """No rate above the capacity is claimed, although a short probe would hold there."""
    worker = Worker(lambda size: 0.01)
    found = search(worker, bound=60.0, requests=1000)
    assert [probe.rate for probe in found.probes] == [found.ceiling]
    assert found.ceiling == pytest.approx(100 * highest_load(1000))
    assert worker.serve(105.0, 1000).holds(60.0)
    assert "or more" in found.verdict()
    assert "83%" in found.verdict()


def test_more_requests_can_judge_higher_loads() -> None:
    assert highest_load(1000) == pytest.approx(0.826, abs=0.001)
    assert highest_load(100) < highest_load(1000) < highest_load(100_000) < 1


def test_a_bound_below_one_request_needs_no_probe() -> None:
    found = search(Worker(lambda size: 0.01), bound=0.009)
    assert found.probes == []
    assert found.largest is None
    assert "one request alone takes 10.0 ms" in found.verdict()


def test_a_bound_that_only_an_idle_worker_holds() -> None:
    """p99 of the answers alone is above the bound, however few come: the search gives up."""
    slow = iter([0.01] * 20 + [0.05 if i % 20 == 0 else 0.01 for i in range(10**6)])
    found = search(Worker(lambda size: next(slow)), bound=0.02, requests=1000)
    assert found.largest is None
    assert all(not probe.holds(0.02) for probe in found.probes)
    assert min(probe.rate for probe in found.probes) > 5
    assert "no rate from 10% of the capacity up" in found.verdict()


def test_batches_raise_the_largest_rate() -> None:
    """2 ms + 1 ms an image: 8 at a time carry 800 a second instead of 333."""
    one = search(Worker(lambda size: 0.002 + 0.001 * size), bound=0.03)
    eight = search(Worker(lambda size: 0.002 + 0.001 * size), bound=0.03, batch=8)
    assert one.capacity == pytest.approx(1000 / 3)
    assert eight.capacity == pytest.approx(800)
    assert one.largest is not None
    assert eight.largest is not None
    assert eight.largest.rate > 1.8 * one.largest.rate
    assert max(eight.largest.batches) == 8


def test_too_few_requests_for_a_p99_are_refused() -> None:
    with pytest.raises(UserError, match="10 requests are too few for a p99"):
        search(Worker(lambda size: 1.0), bound=2.0, requests=10)


def stopped_after(calls: int, worker: Worker) -> Answer:
    counted: Iterator[int] = iter(range(10**9))

    def answer(size: int) -> None:
        if next(counted) == calls:
            raise KeyboardInterrupt
        worker.answer(size)

    return answer


def test_ctrl_c_keeps_the_probes_that_ended() -> None:
    worker = Worker(lambda size: 0.01)
    told: list[Probe] = []
    found = largest_rate(
        stopped_after(20 + 2500, worker), 0.02, 1000,
        clock=worker, wait_until=worker.wait_until, progress=told.append,
    )  # fmt: skip
    assert len(found.probes) == 2
    assert told == found.probes
    assert not found.complete
    assert "stopped after 2 probes" in found.verdict()


def test_an_answer_that_fails_is_not_swallowed() -> None:
    def fail(size: int) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        serve(fail, 1000.0, 3)


def test_the_smallest_prepared_batch_that_holds_them() -> None:
    ran: list[int] = []
    answer = by_size({size: lambda size=size: ran.append(size) for size in (1, 4, 8)})  # type: ignore[misc]
    for waiting in (1, 2, 4, 5, 8):
        answer(waiting)
    assert ran == [1, 4, 4, 8, 8]


def test_waiting_ends_at_the_moment_and_not_before() -> None:
    moment = time.perf_counter() + 0.003
    wait_until(moment)
    assert time.perf_counter() >= moment
    wait_until(moment - 10.0)  # long over: returns
