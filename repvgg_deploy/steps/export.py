"""export: the fused network becomes an ONNX model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import onnx
import torch

from ..artifacts import FusedArtifact, OnnxArtifact, Source
from ..equivalence.compare import Comparison, compare
from ..equivalence.samples import probe_inputs
from ..equivalence.truth import TruthCheck, hold_truth
from ..equivalence.truth_file import Truth
from ..errors import CheckFailed, UserError
from ..export.graph import BF16_OPSET, DEFAULT_OPSET, INPUT, OUTPUT, to_onnx
from ..export.half import check_half_range
from ..export.simplify import operators, simplify
from ..runners.onnx_bf16 import widened
from ..runners.onnx_runtime import OrtRunner
from ..runners.protocol import run
from ..sidecar import store
from ..workspace import ModelFolder
from .against_weights import run_weights
from .assumptions import Assumptions, recorded_assumptions
from .carried import check_exported
from .image_size import model_image_size
from .truth import hold_graph, weights_candidate
from .weights import Network, read_weights

#: Batch sizes at which a dynamic model is run in ONNX Runtime against torch.
CHECKED_BATCHES = (1, 2, 3)


@dataclass(frozen=True)
class OnnxResult:
    """An ONNX model that passed; ``before`` and ``after`` count operators around onnxsim.

    ``fused_proved``: whether the fused weights, which it was checked against, carry a proof;
    ``assumptions`` are what fuse took for what their checkpoint does not say.
    """

    path: Path
    artifact: OnnxArtifact
    before: dict[str, int]
    after: dict[str, int]
    checks: list[Comparison]
    fused_proved: bool
    assumptions: Assumptions
    truth: TruthCheck | None


def check_onnx(
    folder: ModelFolder,
    *,
    precision: str = "fp32",
    opset: int | None = None,
    image_size: tuple[int, int] | None = None,
    batch: int | None = None,
    truth: Truth | None = None,
) -> Callable[[], OnnxResult]:
    """Check ``<precision>.onnx`` before it is written; calling what is returned writes it.

    The model is simplified, checked by ONNX, and run against torch.

    ``image_size`` is (height, width), None: that of the models in the folder, else as the network
    was trained; ``batch`` None: dynamic, ``opset`` None: 17, or 22 for bf16. ``truth`` are recorded
    outputs of the user's own model.

    Raises:
        UserError: the opset is out of range, or ONNX Runtime is missing or refuses the model.
        CheckFailed: the model is not faithful or not plain, or does not give the recorded outputs.
    """
    opset = _pick_opset(opset, precision)
    fused: FusedArtifact = folder.read_fused()
    weights = read_weights(folder.fused)
    network = weights.network
    height, width = image_size or model_image_size(folder, network.spec)
    if truth is not None:
        _check_truth(truth, folder.fused, network, (height, width), precision)
    raw = to_onnx(network.build(), (height, width), precision=precision, batch=batch, opset=opset)
    model = simplify(raw, network.spec.has_se)
    path = folder.onnx(precision)
    checks = _check(path, network, model, (height, width), precision, batch)
    carried = check_exported(weights, model, must_be_exact=True)
    if not carried.exact:
        raise CheckFailed(f"{path}: {carried.reason}; nothing was written.")
    held = None if truth is None else hold_graph(path, truth, network=network, model=model)
    artifact = OnnxArtifact(
        file=path.name,
        sha256="",  # known when it is written
        source=Source(folder.fused.name, fused.sha256),
        precision=precision,
        opset=opset,
        input_name=INPUT,
        output_name=OUTPUT,
        input_shape=[batch or 0, network.spec.in_channels, height, width],
        operators=operators(model),
        proof={
            "passed": True,
            "checks": [asdict(check) for check in checks],
            "weights": asdict(carried),
        },
        truth=None if held is None else held.to_dict(),
    )
    proved, assumptions = fused.proof is not None, recorded_assumptions(fused, weights)
    before, after = operators(raw), operators(model)
    result = OnnxResult(path, artifact, before, after, checks, proved, assumptions, held)
    return partial(_write, model, result)


def _write(model: onnx.ModelProto, checked: OnnxResult) -> OnnxResult:
    artifact = store(
        checked.path,
        lambda temporary: onnx.save(model, temporary),
        lambda sha256: replace(checked.artifact, sha256=sha256),
    )
    return replace(checked, artifact=artifact)


def _check_truth(
    truth: Truth, fused: Path, network: Network, image_size: tuple[int, int], precision: str
) -> None:
    """What recorded outputs can rule out before a model is built.

    Raises:
        UserError: they were recorded at another image size.
        CheckFailed: the fused network in fp32, whose bound is the narrowest, does not give them.
    """
    inputs, _ = truth.match(Path("the ONNX model"), (INPUT,), (OUTPUT,))
    given = inputs[INPUT].shape[2:]
    if len(given) == 2 and given != image_size:
        height, width = given
        raise UserError(
            f"{truth.path}: holds images of {height}x{width} pixels, and the ONNX model would take "
            f"{image_size[0]}x{image_size[1]}; give --size {height}x{width}."
        )
    if precision != "fp32":
        hold_truth(truth, weights_candidate(fused, network, torch.device("cpu")))


def _pick_opset(asked: int | None, precision: str) -> int:
    least = BF16_OPSET if precision == "bf16" else 0
    opset = max(DEFAULT_OPSET, least) if asked is None else asked
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise UserError(f"opset {opset}: the installed onnx knows opsets up to {newest}.")
    if opset < least:
        raise UserError(
            f"opset {opset}: ONNX has no bf16 convolution before {least}; leave --opset out."
        )
    return opset


def _check(
    path: Path,
    network: Network,
    model: onnx.ModelProto,
    image_size: tuple[int, int],
    precision: str,
    batch: int | None,
) -> list[Comparison]:
    """The comparisons, which all passed; else CheckFailed."""
    try:
        checks = _compare(network, model, image_size, precision, batch)
    except CheckFailed as error:
        raise CheckFailed(f"{path}: {error}") from error
    if failed := [check for check in checks if not check.passed]:
        raise CheckFailed(f"{path}: at {failed[0].name}, {failed[0].reason}; nothing was written.")
    return checks


def _compare(
    network: Network,
    model: onnx.ModelProto,
    image_size: tuple[int, int],
    precision: str,
    batch: int | None,
) -> list[Comparison]:
    """ONNX Runtime against torch on the CPU, at each batch size the model has to take."""
    batches = CHECKED_BATCHES if batch is None else (batch,)
    samples = probe_inputs(network.spec.in_channels, *image_size, count=max(batches))
    if precision == "fp16":
        check_half_range(network.build(), samples)
    truth, own = run_weights(network, precision, torch.device("cpu"), samples)
    runnable = widened(model) if precision == "bf16" else model
    runner = OrtRunner(runnable.SerializeToString())
    return [
        compare(f"batch {n}", truth[:n], own[:n], run(runner, samples[:n]), precision)
        for n in batches
    ]
