"""export: the fused network becomes an ONNX model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
import torch

from ..artifacts import FusedArtifact, OnnxArtifact, Source
from ..equivalence.compare import Comparison, compare
from ..equivalence.samples import probe_inputs
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
from .image_size import model_image_size
from .weights import Network, read_weights

#: Batch sizes at which a dynamic model is run in ONNX Runtime against torch.
CHECKED_BATCHES = (1, 2, 3)


@dataclass(frozen=True)
class OnnxResult:
    """An ONNX model that passed; ``before`` and ``after`` count operators around onnxsim.

    ``fused_proved``: whether the fused weights, which it was checked against, carry a proof.
    """

    path: Path
    artifact: OnnxArtifact
    before: dict[str, int]
    after: dict[str, int]
    checks: list[Comparison]
    fused_proved: bool


def export_onnx(
    folder: ModelFolder,
    *,
    precision: str = "fp32",
    opset: int | None = None,
    image_size: tuple[int, int] | None = None,
    batch: int | None = None,
) -> OnnxResult:
    """Write ``<precision>.onnx``: simplified, checked by ONNX, and run against torch.

    ``image_size`` is (height, width), None: that of the models in the folder, else as the network
    was trained; ``batch`` None: dynamic, ``opset`` None: 17, or 22 for bf16.

    Raises:
        UserError: the opset is out of range, or ONNX Runtime is missing or refuses the model.
        CheckFailed: the model is not faithful or not plain; nothing is written.
    """
    opset = _pick_opset(opset, precision)
    fused: FusedArtifact = folder.read_fused()
    network = read_weights(folder.fused).network
    height, width = image_size or model_image_size(folder, network.spec)
    raw = to_onnx(network.build(), (height, width), precision=precision, batch=batch, opset=opset)
    model = simplify(raw, network.spec.has_se)
    path = folder.onnx(precision)
    try:
        checks = _check(network, model, (height, width), precision, batch)
    except CheckFailed as error:
        raise CheckFailed(f"{path}: {error}") from error
    if failed := [check for check in checks if not check.passed]:
        raise CheckFailed(f"{path}: at {failed[0].name}, {failed[0].reason}; nothing was written.")
    artifact = store(
        path,
        lambda temporary: onnx.save(model, temporary),
        lambda sha256: OnnxArtifact(
            file=path.name,
            sha256=sha256,
            source=Source(folder.fused.name, fused.sha256),
            precision=precision,
            opset=opset,
            input_name=INPUT,
            output_name=OUTPUT,
            input_shape=[batch or 0, network.spec.in_channels, height, width],
            operators=operators(model),
            proof={"passed": True, "checks": [asdict(check) for check in checks]},
        ),
    )
    return OnnxResult(
        path, artifact, operators(raw), operators(model), checks, fused.proof is not None
    )


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
