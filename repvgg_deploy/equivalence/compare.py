"""Two outputs against the float64 truth: the verdict is a ratio of distances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckFailed, UserError
from ..sqnr import decibel
from .channels import channel_errors, wrong_channel

#: The candidate may be this many times as far from the truth as the reference is itself.
RATIO_LIMIT = 8.0
#: Relative error that one correctly rounded operation can make (IEEE 754, round to nearest).
UNIT_ROUNDOFF = {"fp32": 2.0**-24, "tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """A candidate against a reference, both measured from the float64 truth.

    ``noise`` is the reference's own distance to the truth in the working precision, ``error`` the
    candidate's; ``ratio`` is error / noise and passes up to ``limit``, unless one channel alone is
    too far off (channels.py). Distances are relative: the RMS over channels of |difference| /
    |truth| in each. ``max_abs`` and ``max_rel`` are over all values, ``sqnr_db`` as in sqnr.py,
    ``top1_agreement`` a share (None for feature maps).
    """

    name: str
    precision: str
    samples: int
    max_abs: float
    max_rel: float
    cosine: float
    sqnr_db: float
    top1_agreement: float | None
    noise: float
    error: float
    ratio: float
    limit: float
    passed: bool
    reason: str


def furthest(comparisons: Iterable[Comparison]) -> Comparison | None:
    """The one furthest from its reference; None of none."""
    return max(comparisons, key=_badness, default=None)


def nearest(comparisons: Iterable[Comparison]) -> Comparison:
    """The one nearest to its reference, of at least one."""
    return min(comparisons, key=_badness)


def failure_lines(comparisons: Iterable[Comparison]) -> list[str]:
    """One line for each that does not hold, the worst first."""
    failed = sorted((c for c in comparisons if not c.passed), key=_badness, reverse=True)
    return [f"{c.name}: {c.reason}" for c in failed]


def _badness(comparison: Comparison) -> tuple[bool, float]:
    """Orders by ratio; NaN, which compares with nothing, is as bad as infinity."""
    ratio = comparison.ratio
    return not comparison.passed, float("inf") if np.isnan(ratio) else ratio


@np.errstate(
    invalid="ignore", divide="ignore", over="ignore"
)  # a figure of NaN or infinity says it all
def compare(
    name: str,
    truth: NDArray[Any],
    reference: NDArray[Any],
    candidate: NDArray[Any],
    precision: str = "fp32",
    limit: float = RATIO_LIMIT,
    spread: float = 0.0,
    ruler: str = "the reference's own rounding error",
) -> Comparison:
    """Judge ``candidate``; all arrays are [N, C] or [N, C, H, W] and of one shape.

    ``spread`` is a rounding error known from elsewhere: the noise is at least that. ``ruler`` says
    in the reason what the noise is.

    Raises:
        UserError: no samples.
        CheckFailed: outputs of different shapes.
    """
    truth, reference, candidate = (np.asarray(a, np.float64) for a in (truth, reference, candidate))
    if truth.size == 0:
        raise UserError(f"{name}: no samples to compare; a proof on nothing proves nothing.")
    if not truth.shape == reference.shape == candidate.shape:
        shapes = f"{truth.shape}, {reference.shape} and {candidate.shape}"
        raise CheckFailed(
            f"{name}: outputs of different shapes ({shapes}); these are two networks."
        )
    noise = max(distance(reference, truth), UNIT_ROUNDOFF[precision], spread)
    error = distance(candidate, truth)
    ratio = error / noise if np.isfinite(noise) else float("nan")
    wrong = wrong_channel(truth, reference, candidate, noise, limit)
    passed = bool(np.isfinite(error) and np.isfinite(noise) and ratio <= limit and not wrong)
    difference = np.abs(candidate - truth)
    return Comparison(
        name=name,
        precision=precision,
        samples=len(truth),
        max_abs=float(difference.max()),
        max_rel=float(difference.max() / max(float(np.abs(truth).max()), np.finfo(float).tiny)),
        cosine=_cosine(candidate, truth),
        sqnr_db=_sqnr_db(candidate, truth),
        top1_agreement=_agreement(candidate, truth) if truth.ndim == 2 else None,
        noise=noise,
        error=error,
        ratio=ratio,
        limit=limit,
        passed=passed,
        reason=wrong if wrong and ratio <= limit else _reason(error, noise, ratio, limit, ruler),
    )


def distance(values: Array, truth: Array) -> float:
    """RMS over channels of the relative error in each; infinite where a value is not finite."""
    if not (np.isfinite(values).all() and np.isfinite(truth).all()):
        return float("inf")
    relative = channel_errors(values, truth)
    return float(np.sqrt((relative**2).mean()))


def joined(rounds: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """All rounds along the first axis, at least [N, C]; value by value where their other sides
    differ."""
    if any(array.ndim < 2 or array.shape[1:] != rounds[0].shape[1:] for array in rounds):
        rounds = [array.reshape(-1, 1) for array in rounds]
    return np.concatenate(list(rounds))


def _cosine(a: Array, b: Array) -> float:
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / norm) if norm else float(np.array_equal(a, b))


def _sqnr_db(values: Array, truth: Array) -> float:
    return decibel(float((truth**2).sum()), float(((values - truth) ** 2).sum()))


def _agreement(a: Array, b: Array) -> float:
    return float((a.argmax(1) == b.argmax(1)).mean())


def _reason(error: float, noise: float, ratio: float, limit: float, ruler: str) -> str:
    if not np.isfinite(noise):
        return "the reference's own output holds NaN or infinity, which measures nothing"
    if not np.isfinite(error):
        return "the candidate's output holds NaN or infinity"
    relation = "at most" if ratio <= limit else "more than"
    return (
        f"distance to the float64 truth {error:.2e} is {ratio:.2g} times {ruler} {noise:.2e}, "
        f"{relation} {limit:g}"
    )
