"""Two outputs against the float64 truth: the verdict is a ratio of distances."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckFailed, UserError

#: The candidate may be this many times as far from the truth as the reference is itself.
RATIO_LIMIT = 8.0
#: Relative error that one correctly rounded operation can make (IEEE 754, round to nearest).
UNIT_ROUNDOFF = {"fp32": 2.0**-24, "tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8}
#: A channel this much quieter than the average one counts as silent.
_SILENT = 1e-6

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """A candidate against a reference, both measured from the float64 truth.

    ``noise`` is the reference's own distance to the truth in the working precision, ``error`` the
    candidate's; ``ratio`` is error / noise and passes up to ``limit``. Distances are relative: the
    RMS over channels of |difference| / |truth| in each. ``max_abs`` and ``max_rel`` are over all
    values, ``sqnr_db`` in decibel, ``top1_agreement`` a share (None for feature maps).
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
) -> Comparison:
    """Judge ``candidate``; all arrays are [N, C] or [N, C, H, W] and of one shape.

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
    noise = max(_distance(reference, truth), UNIT_ROUNDOFF[precision])
    error = _distance(candidate, truth)
    ratio = error / noise if np.isfinite(noise) else float("nan")
    passed = bool(np.isfinite(error) and np.isfinite(noise) and ratio <= limit)
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
        reason=_reason(error, noise, ratio, limit, passed),
    )


def _distance(values: Array, truth: Array) -> float:
    """RMS over channels of the relative error in each; infinite where a value is not finite."""
    if not (np.isfinite(values).all() and np.isfinite(truth).all()):
        return float("inf")
    axes = tuple(axis for axis in range(truth.ndim) if axis != 1)
    scale = np.sqrt((truth**2).sum(axes))
    floor = _SILENT * np.sqrt((scale**2).mean())
    error = np.sqrt(((values - truth) ** 2).sum(axes))
    relative = error / np.maximum(scale, max(floor, np.finfo(float).tiny))
    return float(np.sqrt((relative**2).mean()))


def _cosine(a: Array, b: Array) -> float:
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / norm) if norm else 1.0


def _sqnr_db(values: Array, truth: Array) -> float:
    error = float(((values - truth) ** 2).sum())
    return float(10 * np.log10((truth**2).sum() / error)) if error else float("inf")


def _agreement(a: Array, b: Array) -> float:
    return float((a.argmax(1) == b.argmax(1)).mean())


def _reason(error: float, noise: float, ratio: float, limit: float, passed: bool) -> str:
    if not np.isfinite(noise):
        return "the reference's own output holds NaN or infinity, which measures nothing"
    if not np.isfinite(error):
        return "the candidate's output holds NaN or infinity"
    relation = "at most" if passed else "more than"
    return (
        f"distance to the float64 truth {error:.2e} is {ratio:.2g} times the reference's own "
        f"rounding error {noise:.2e}, {relation} {limit:g}"
    )
