"""Proofs in words and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..equivalence.compare import furthest
from ..sqnr import sqnr_text
from .assumptions import assumption_lines
from .text import count_text
from .truth import truth_line

if TYPE_CHECKING:
    from ..equivalence.compare import Comparison
    from ..equivalence.graph import GraphProof
    from ..equivalence.proof import Proof
    from ..equivalence.weights import WeightCheck
    from ..quantize.quality import Likeness
    from ..steps.assumptions import Assumptions
    from ..steps.int8_proof import IntegerProof
    from ..steps.verdict import Verdict


def proof_lines(proof: Proof) -> list[str]:
    """Block by block and end to end, each as a multiple of the reference's own rounding error."""
    worst, end = proof.worst_part, proof.end_to_end
    whole = "the network around them is not known" if end is None else f"end to end {end.ratio:.2f}"
    parts = count_text(len(proof.parts), "part")
    largest = worst.max_abs if end is None else end.max_abs
    lines = [
        f"proof on {proof.device}, {worst.samples} samples: error relative to the training "
        f"network's own float32 rounding error (limit {worst.limit:g}):",
        f"  worst of {parts} {worst.ratio:.2f} ({worst.name}), {whole}; "
        f"max |difference| {largest:.1e}",
    ]
    if proof.worst_algebra is not None:
        lines.append(f"  folded in float64, the worst block differs by {proof.worst_algebra:.1e}")
    return lines


def check_line(checks: Sequence[Comparison]) -> str:
    """ONNX Runtime against torch at several batch sizes."""
    sizes = ", ".join(check.name.removeprefix("batch ") for check in checks)
    worst = furthest(checks)
    assert worst is not None  # one at least is run
    # it has no bf16 convolution on the CPU (runners/onnx_bf16.py)
    how = " (bf16 weights, float32 arithmetic)" if worst.precision == "bf16" else ""
    return (
        f"in ONNX Runtime{how} at batch {sizes}: worst error {worst.ratio:.2f} times torch's own "
        f"{worst.precision} rounding error (limit {worst.limit:g}), {sqnr_text(worst.sqnr_db, 0)}"
    )


def verdict_lines(verdict: Verdict) -> list[str]:
    """One pair: the verdict, the proof's lines or the end-to-end figures."""
    assumed = [f"{path}: {line}" for path, one in verdict.assumptions for line in _open(one)]
    files = (verdict.reference, verdict.candidate)  # an engine is not compared
    held = [f"{file}: {truth_line(one)}" for file, one in zip(files, verdict.truth, strict=False)]
    return [*assumed, *_verdict_lines(verdict), *held]


def _open(assumptions: Assumptions) -> list[str]:
    """Where the strides are assumed; what else a proof of two files assumes is the same in both."""
    return assumption_lines(assumptions) if assumptions.assumed_strides else []


def _verdict_lines(verdict: Verdict) -> list[str]:
    word = "FAILED" if verdict.failures else "passed"
    head = f"{verdict.candidate} against {verdict.reference}: {word}"
    end = verdict.end_to_end
    weights = weight_lines(verdict.weights)
    if verdict.proof is not None:
        changed = [f"  {key}: is not what the reference holds" for key in verdict.changed[:5]]
        return [head, *proof_lines(verdict.proof), *weights, *changed]
    if verdict.graphs is not None:
        return [head, *_graph_lines(verdict.graphs), *weights]
    if verdict.integers is not None:
        return [head, *_integer_lines(verdict.integers)]
    assert end is not None  # without a proof of blocks there is one
    return [head, *_figures(f"{end.samples} samples, {end.precision}", end), *weights]


def weight_lines(check: WeightCheck | None) -> list[str]:
    """Whether weights were compared exactly, and if not, why."""
    if check is None:
        return []
    if check.failures:
        return [f"  weights: {line}" for line in check.failures[:5]]
    counted = f"{check.values:,} weights in {count_text(check.tensors, 'tensor')}"
    if check.exact:
        return [f"  {counted} compared exactly: all as they should be"]
    return [f"  weights not compared exactly: {check.reason}"]


def _graph_lines(proof: GraphProof) -> list[str]:
    """The worst output, then the worst inner tensor."""
    end, inner = proof.worst_output, proof.worst_region
    if end is None:
        lines = ["  no output is a float; the others were compared value by value"]
    else:
        place = f"worst of {count_text(len(proof.outputs), 'output')} ({end.name})"
        lines = _figures(f"{place}, {end.samples} samples, {end.precision}", end)
    if inner is not None:
        regions = count_text(len(proof.regions), "region")
        lines.append(f"  worst of {regions} {inner.ratio:.2f} ({inner.name})")
    return lines


def _integer_lines(proof: IntegerProof) -> list[str]:
    """Weights and scales, then the integers that flow, then the logits."""
    layers = count_text(proof.quantized, "layer")
    if proof.changed:
        return [f"  {line}" for line in proof.changed[:5]]
    origin = "were trained" if proof.trained else "quantize chose"
    lines = [
        f"  weights, scales and biases of {layers} are those that {origin};",
        f"  from ONNX Runtime's own values, torch has {proof.differing:,} of {proof.values:,} "
        f"integers otherwise, by {count_text(proof.largest, 'step')} at most;",
    ]
    if proof.network is None or proof.reference is None:
        worst = furthest(proof.sums)
        assert worst is not None  # of each quantized layer
        return [
            *lines,
            f"  the output of a layer is at most {worst.ratio:.2f} of torch's own rounding off",
        ]
    return [
        *lines,
        f"  the whole network beside torch's: {_likeness(proof.network)}",
        f"  beside the reference in float, on these samples: {_likeness(proof.reference)}",
    ]


def _likeness(figures: Likeness) -> str:
    agreement = "" if figures.agreement is None else f", top-1 agreement {figures.agreement:.0%}"
    return f"{sqnr_text(figures.sqnr_db)}{agreement}"


def _figures(what: str, end: Comparison) -> list[str]:
    """The verdict on an output, and how far off it is."""
    agreement = "" if end.top1_agreement is None else f", top-1 agreement {end.top1_agreement:.0%}"
    return [
        f"  {what}: {end.reason};",
        f"  max |difference| {end.max_abs:.1e}, {sqnr_text(end.sqnr_db, 0)}, "
        f"cosine {end.cosine:.9f}{agreement}",
    ]


def verdict_dict(verdict: Verdict) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "reference": str(verdict.reference),
        "candidate": str(verdict.candidate),
        "device": verdict.device,
        "passed": not verdict.failures,
        "failures": verdict.failures,
        "end_to_end": None if verdict.end_to_end is None else asdict(verdict.end_to_end),
        "changed": list(verdict.changed),
        "weights": None if verdict.weights is None else asdict(verdict.weights),
        "proof": None if verdict.proof is None else verdict.proof.to_dict(),
        "integers": None if verdict.integers is None else verdict.integers.to_dict(),
        "graphs": None if verdict.graphs is None else verdict.graphs.to_dict(),
        "truth": [one.to_dict() for one in verdict.truth],
        "assumptions": {str(path): one.to_dict() for path, one in verdict.assumptions},
    }
