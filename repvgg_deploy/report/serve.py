"""What serve wrote and left out, and what to know before Triton loads it."""

from __future__ import annotations

from ..serving.triton.model import TritonModel
from ..serving.triton.plan import TritonPlan, Written


def plan_lines(plan: TritonPlan) -> list[str]:
    """What Triton cannot load, and the notes on what it can."""
    lines = [f"left out: {left.file} {left.reason}" for left in plan.left_out]
    if not plan.fused:
        lines.append("note: no fused weights lie here, so it is not checked what these stem from")
    for model in plan.models:
        labelled = model.name in plan.labels
        lines += [f"note: {model.name}: {note}" for note in _notes(model, labelled)]
    return lines


def written_text(written: Written) -> str:
    """``batches up to 128, preferred 32; version 2, new``"""
    batches = f"batches up to {written.max_batch_size}" if written.max_batch_size else "fixed batch"
    if written.preferred_batch_size:
        batches += f", preferred {', '.join(map(str, written.preferred_batch_size))}"
    labels = f", {written.labels} labels" if written.labels else ""
    state = "new" if written.changed else "as it was"
    return f"{batches}{labels}; version {written.version}, {state}"


def _notes(model: TritonModel, labelled: bool) -> list[str]:
    first, notes = model.first, []
    if first.version:
        with_flag = " or newer with --backend-config=tensorrt,version-compatible=true"
        notes.append(
            f"built by TensorRT {first.version} on {first.platform}, so Triton has to bring "
            f"TensorRT {first.version}{with_flag if first.version_compatible else ''}"
        )
    if unproved := [member.path.name for member in model.members if not member.proved]:
        notes.append(
            f"{' and '.join(unproved)} never ran, so nothing proves that it computes the same"
        )
    if missing := _missing(model):
        notes.append(
            f"runs no batch of {' or '.join(missing)}, so requests that come to that fail; build "
            "with a --profile from 1 on, without gaps"
        )
    if first.backend == "onnx" and any(t.dtype == "TYPE_BF16" for t in first.inputs):
        notes.append("Triton runs ONNX models with bfloat16 inputs from release 26.03 on")
    if labelled and first.outputs[0].dtype in ("TYPE_FP16", "TYPE_BF16"):
        notes.append(
            "Triton names classes of float32 outputs only; clients have to read labels.txt"
        )
    return notes


def _missing(model: TritonModel) -> list[str]:
    """Batch sizes up to the largest that no profile runs: ``1 to 3``."""
    gaps, at = [], 1
    for profile in sorted(model.first.profiles, key=lambda profile: profile.min):
        last = min(profile.min - 1, model.max_batch)
        if at <= last:
            gaps.append(str(at) if at == last else f"{at} to {last}")
        at = max(at, profile.max + 1)
    return gaps
