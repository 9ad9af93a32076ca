"""train --qat: a fused network is calibrated, trained in int8 steps, and written as quantize does.

Between :func:`prepare_qat` and :func:`export_qat` the network is trained like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ..data.spool import spooled
from ..equivalence.compare import Comparison
from ..errors import UserError
from ..files import is_onnx
from ..models.network import RepVGG
from ..quantize.quality import Likeness
from ..quantize.quantizer import QuantizedNetwork
from ..train.qat.network import insert_norms, trainable, trained
from ..train.qat.settings import QatSettings
from ..workspace import ModelFolder
from .calibration import Calibration
from .qat_proof import check_finite, check_quality, prove_trained
from .quantize import QuantizeResult, post_training, to_int8
from .quantize_options import TRAINED, QuantizeOptions
from .quantize_proof import measure, prove_equalization
from .quantize_record import Outcome
from .quantize_source import float_model
from .weights import read_weights
from .write_int8 import write_int8

Progress = Callable[[str, float], None]
#: On as many the trained network is held against what is written.
_PROOF_IMAGES = 8


@dataclass(frozen=True)
class QatRun:
    """``network`` is trained, towards ``teacher``, the float network, where it is distilled.

    ``start`` is what post-training quantization made, ``before`` its quality; ``equalized`` as
    QuantizeResult has it. ``images`` [n, C, H, W] are some of those calibrated with.
    """

    source: Path
    model: onnx.ModelProto
    network: RepVGG
    teacher: RepVGG
    start: QuantizedNetwork
    before: Likeness
    equalized: Comparison | None
    images: NDArray[np.float32]
    calibration: Calibration
    settings: QatSettings
    seed: int

    @property
    def options(self) -> QuantizeOptions:
        """What of the settings quantize has too."""
        return _options(self.settings, TRAINED, self.seed)


def prepare_qat(
    source: Path,
    calibration: Calibration,
    settings: QatSettings,
    seed: int,
    progress: Progress,
) -> QatRun:
    """Quantize fused weights as ``settings.start`` has it, and make a trainable network of that.

    The same arguments give the same network, which is what a resumed run starts from.

    Raises:
        UserError: no fused RepVGG, or images that cannot be used.
        CheckFailed: equalization changed the function.
    """
    if is_onnx(source):
        raise UserError(f"{source}: is an ONNX model; training for int8 takes a checkpoint.")
    weights = read_weights(source)
    if weights.form != "deploy":
        raise UserError(f"{source}: is not fused yet; run repvgg-deploy fuse on it first.")
    teacher = weights.network.build()
    model = float_model(source, calibration)
    options = _options(settings, settings.start, seed)
    with spooled(calibration.fit) as images:
        start = post_training(source, model, images, options, progress)
        equalized = prove_equalization(source, model, start, images.stored)
        network = trainable(start, settings, teacher.spec.strides)
        if settings.reinsert_bn:
            insert_norms(network, images.batches)
        some = np.array(images.stored[:_PROOF_IMAGES])
    progress("measuring", 0.0)
    quantized = to_int8(source, start, options)
    before = measure(model, quantized, calibration).quality
    return QatRun(
        source, model, network, teacher, start, before, equalized, some, calibration, settings, seed
    )


def export_qat(
    run: QatRun, folder: ModelFolder, training: dict[str, Any], progress: Progress
) -> QuantizeResult:
    """Write the int8 model of ``run.network`` as it is now, as quantize writes one.

    The network is moved to the CPU first. ``training`` is put into the sidecar's method: what was
    typed, and what else there is to say.

    Raises:
        UserError: the folder holds the int8 model of another network.
        CheckFailed: what would be written is not what was trained, or has lost its answers.
    """
    path = folder.claim_int8(run.source)
    progress("measuring", 0.0)
    check_finite(run.source, run.network)
    run.network.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    network = trained(run.network, run.start)
    quantized = to_int8(run.source, network, run.options)
    prove_trained(run.source, run.network, network, quantized, run.images)
    measured = measure(run.model, quantized, run.calibration)
    check_quality(run.source, measured.quality, distilled=run.settings.distill)
    method = {**run.settings.to_dict(), **training}
    outcome = Outcome(network, quantized, measured.quality, measured.samples, training=method)
    artifact = write_int8(run.source, folder, outcome, run.calibration, run.options)
    return QuantizeResult(path, artifact, network, measured.quality, None, run.equalized)


def _options(settings: QatSettings, method: str, seed: int) -> QuantizeOptions:
    return QuantizeOptions(method, settings.float_type, settings.stem, settings.linear, seed)
