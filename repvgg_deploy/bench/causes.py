"""The known causes of a network being no faster than a baseline, each looked for."""

from __future__ import annotations

from dataclasses import dataclass

from .operators import Graphs, Operators
from .record import BenchRecord, Contest, Measured, Roofline, Subject

#: Seconds: an operator that takes less is mostly its own launch or dispatch.
LAUNCH = 10e-6
#: A further image in the batch that costs less than this share of one: the time is not in the work.
MARGINAL = 0.25
#: From this share of the ceiling on, it is the ceiling that holds a network back; and a ceiling
#: that is lowered to no less than this part of it is the same for both.
NEAR, SAME = 0.5, 0.85
#: What may be faster by this much, as far as its interval tells, is not shown to be no faster.
HIDDEN = 1.1
_WIDTH = {"int8": 1, "fp16": 2, "bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class Case:
    """A subject that is not faster (``mine``) and the baseline (``theirs``)."""

    record: BenchRecord
    contest: Contest
    mine: Measured
    theirs: Measured
    graphs: Graphs

    def subject(self, label: str) -> Subject | None:
        return next((one for one in self.record.subjects if one.label == label), None)

    def graph(self, label: str) -> Operators | None:
        return self.graphs.get((self.contest.runtime, label))

    def line(self, label: str) -> Roofline | None:
        place = (self.contest.runtime, self.contest.batch, label)
        lines = self.record.rooflines
        return next((one for one in lines if (one.runtime, one.batch, one.label) == place), None)

    def other_batch(self) -> tuple[int, float] | None:
        """(batch, median) of the next larger batch on this runtime, or else the next smaller."""
        batches = {
            contest.batch: one.summary.median
            for contest in self.record.contests
            if contest.runtime == self.contest.runtime and contest.batch != self.contest.batch
            if (one := contest.of(self.mine.label)) is not None
        }
        larger = [batch for batch in batches if batch > self.contest.batch]
        batch = min(larger) if larger else max(batches, default=None)
        return None if batch is None else (batch, batches[batch])


def causes(case: Case) -> dict[str, str]:
    """Name of each cause that holds -> what was seen of it."""
    looked = {
        "folded already": _folded(case),
        "launch-bound": _launch_bound(case),
        "data": _data(case),
        "precision": _precision(case),
        "clock": _clock(case),
        "ceiling": _ceiling(case),
        "few samples": _few_samples(case),
        "noise": _noise(case),
    }
    held = {cause: text for cause, text in looked.items() if text is not None}
    return held or {"no known cause": _none(case)}


def _folded(case: Case) -> str | None:
    mine, theirs = case.graph(case.mine.label), case.graph(case.theirs.label)
    ours, base = case.subject(case.mine.label), case.subject(case.theirs.label)
    if mine is None or theirs is None or ours is None or base is None:
        return None
    if ours.precision != base.precision:  # then it is not folding that was to make the difference
        return None
    runtime = case.contest.runtime
    if theirs.convolutions <= mine.convolutions and theirs.norms + theirs.additions <= (
        mine.norms + mine.additions
    ):
        return (
            f"{runtime} runs {_number(theirs.convolutions)} of the baseline and "
            f"{_number(mine.convolutions)} of this one: its branches had been folded already"
        )
    if theirs.norms + theirs.additions == 0 < theirs.convolutions - mine.convolutions:
        return (
            f"{runtime} had folded batch norms and additions of the baseline into its "
            f"convolutions: {_number(theirs.convolutions)} against {mine.convolutions} are all "
            "that fusing still saves"
        )
    return None


def _launch_bound(case: Case) -> str | None:
    median, batch = case.mine.summary.median, case.contest.batch
    if (other := case.other_batch()) is not None:
        (small, short), (large, long) = sorted([(batch, median), other])
        marginal = (long - short) / (large - small) / (short / small)
        if marginal < MARGINAL:
            return (
                f"batch {large} takes {long / short:.2f} times as long as batch {small}: the time "
                "is in launching operators, not in their work"
            )
    graph = case.graph(case.mine.label)
    if graph is not None and graph.total and median / graph.total < LAUNCH:
        return (
            f"an operator takes {median / graph.total * 1e6:.1f} us on average, which is about "
            "what launching one takes"
        )
    return None


def _data(case: Case) -> str | None:
    transfer, step = case.mine.transfer, case.mine.summary.median
    if transfer is None or transfer.median < step:
        return None
    share = transfer.median / (transfer.median + step)
    return f"{share:.0%} of the time from end to end is copying the batch to the device and back"


def _precision(case: Case) -> str | None:
    ours, base = case.subject(case.mine.label), case.subject(case.theirs.label)
    if ours is None or base is None:
        return None
    if _WIDTH.get(ours.precision, 0) <= _WIDTH.get(base.precision, 4):
        return None
    return f"it computes in {ours.precision}, and the baseline in {base.precision}"


def _clock(case: Case) -> str | None:
    """bench/conditions.py puts these into words."""
    seen = [doubt for doubt in case.contest.doubts if "clock" in doubt or "throttled" in doubt]
    return "; ".join(seen) or None


def _ceiling(case: Case) -> str | None:
    mine, theirs = case.line(case.mine.label), case.line(case.theirs.label)
    if mine is None or theirs is None or theirs.share < NEAR:
        return None
    rest = mine.ceiling_seconds / theirs.ceiling_seconds
    if mine.bound != theirs.bound or rest < SAME:
        return None
    return (
        f"the baseline reaches {theirs.share:.0%} of what {theirs.bound} allows on this device, "
        f"and this network needs {rest:.0%} of that {theirs.bound}"
    )


def _few_samples(case: Case) -> str | None:
    ratio = case.mine.ratio
    if ratio is None or ratio.low is not None:
        return None
    return f"{case.mine.summary.samples} samples are too few to tell it from noise: measure longer"


def _noise(case: Case) -> str | None:
    ratio = case.mine.ratio
    if ratio is None or ratio.low is None or ratio.high is None or ratio.high < HIDDEN:
        return None
    return (
        f"noise may hide it, the interval reaches from {ratio.low:.2f}x to {ratio.high:.2f}x: "
        "measure longer, or with less other load"
    )


def _none(case: Case) -> str:
    """What could not be looked at stands there."""
    blind = []
    if case.graph(case.mine.label) is None or case.graph(case.theirs.label) is None:
        blind.append(f"the graphs that {case.contest.runtime} runs")
    if case.other_batch() is None:
        blind.append("another batch size")
    if case.line(case.mine.label) is None or case.line(case.theirs.label) is None:
        blind.append("shares of the ceiling")
    text = "none of the known causes holds"
    return f"{text}; there was nothing to tell by of {', '.join(blind)}" if blind else text


def _number(convolutions: int) -> str:
    return f"{convolutions} convolution{'' if convolutions == 1 else 's'}"
