"""The judgement on an int8 model: integers that are meant to be equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..equivalence.compare import Comparison, failure_lines
from ..quantize.quality import Likeness
from ..sqnr import LOWEST, from_json, sqnr_text

#: Sums in another order round differently, and then a value on the edge between two integers falls
#: to the other side; no further.
MOST_STEPS = 1
#: The share of integers that may, by the float type between the layers.
MOST_DIFFERING = {"fp32": 0.001, "fp16": 0.05}
#: The weights have to give the reference's logits at least so well, in decibel, before activations
#: are rounded too. Two networks that have nothing to do with each other reach -3.
LEAST_SQNR_DB = 3.0


@dataclass(frozen=True)
class LayerIntegers:
    """The integers that one layer reads: how many, how many of them differ, and by how much."""

    layer: str
    values: int
    differing: int
    largest: int

    @staticmethod
    def of(layer: str, one: NDArray[np.int8], other: NDArray[np.int8]) -> LayerIntegers:
        steps = np.abs(one.astype(np.int16) - other)
        return LayerIntegers(layer, steps.size, int((steps != 0).sum()), int(steps.max(initial=0)))


def stored_quality(proof: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the proof in an int8 model's sidecar holds, figure by figure; else what does not.

    ``proof`` is as :func:`~repvgg_deploy.records.check_quantized` leaves it.
    """
    for name, figure, bound in (
        ("an SQNR", from_json(proof["sqnr_db"]), proof.get("min_sqnr_db")),
        ("an agreement", proof.get("agreement"), proof.get("min_agreement")),
    ):
        if bound is not None and (figure is None or not figure >= bound):
            return False, f"it says {name} of {figure}, less than {bound}"
    if not from_json(proof["sqnr_db"]) > LOWEST:
        return False, f"it says an SQNR of {proof['sqnr_db']}"
    drop, most = proof.get("top1_drop"), proof.get("max_drop")
    if most is not None and (drop is None or not drop <= most):
        return False, f"it says a drop in top-1 of {drop}, more than {most}"
    integers = proof.get("integers")
    if integers is not None and not 0 <= integers["largest"] <= MOST_STEPS:
        return False, f"it says that an integer is {integers['largest']} steps off"
    if proof["passed"] is not True:
        return False, "it does not say that it passed"
    return True, ""


@dataclass(frozen=True)
class IntegerProof:
    """``changed`` names what is not the fake-quantized network's; then nothing was run.

    ``layers`` were each fed the integers that ONNX Runtime had. ``network`` is ONNX Runtime beside
    the whole torch network, ``weights`` the int8 weights alone beside the reference's, and
    ``reference`` ONNX Runtime beside the reference: figures without a bound, on the samples given.
    Of a graph that torch has no network of, ``sums`` is each layer's output from the integers that
    it read, and those three are None.
    """

    changed: tuple[str, ...]
    quantized: int
    float_type: str
    layers: tuple[LayerIntegers, ...] = ()
    network: Likeness | None = None
    weights: Likeness | None = None
    reference: Likeness | None = None
    sums: tuple[Comparison, ...] = ()
    trained: bool = False

    @property
    def values(self) -> int:
        return sum(layer.values for layer in self.layers)

    @property
    def differing(self) -> int:
        return sum(layer.differing for layer in self.layers)

    @property
    def largest(self) -> int:
        return max((layer.largest for layer in self.layers), default=0)

    @property
    def failures(self) -> list[str]:
        if self.changed:
            return list(self.changed)
        lines = [
            f"an integer that {layer.layer} reads is {layer.largest} steps off torch's, more than "
            f"{MOST_STEPS}"
            for layer in self.layers
            if layer.largest > MOST_STEPS
        ]
        lines += failure_lines(self.sums)
        limit = MOST_DIFFERING[self.float_type]
        if self.differing > limit * self.values:
            lines.append(
                f"{self.differing:,} of {self.values:,} integers are not torch's, more than "
                f"{limit:.1%}"
            )
        weights = None if self.trained else self.weights
        if weights is not None and not weights.sqnr_db >= LEAST_SQNR_DB:
            lines.append(
                "its weights give other logits than the reference's "
                f"({sqnr_text(weights.sqnr_db)}, less than {LEAST_SQNR_DB:g})"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        sums = {"values": self.values, "differing": self.differing, "largest": self.largest}
        return {**asdict(self), **sums}
