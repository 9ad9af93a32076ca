"""How near an int8 model comes to the float network that it was made from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..artifacts import QuantizedArtifact
from ..models.network import RepVGG
from ..quantize.quality import Likeness, LikenessTally
from ..runners.onnx_session import OrtSession
from ..runners.protocol import run
from ..runners.torch_network import TorchRunner, exact_math
from ..sqnr import decibel_text, from_json
from .int8_proof import stored_quality

#: Decibel that the SQNR may be off what the sidecar says: another processor adds up otherwise, and
#: integers on an edge fall to the other side.
SAME_DB = 0.5
#: What is left beyond this many decibel is the rounding of fp16, or nothing, as processors have it.
ROUNDING_DB = 60.0


def measure_quality(
    weights: RepVGG, model: Path, batches: Iterable[NDArray[np.float32]], device: torch.device
) -> Likeness:
    """SQNR of the logits and agreement of the classes, over all of ``batches`` [N, C, H, W] each.

    Raises:
        UserError: ONNX Runtime cannot run the model, or not on batches of that shape.
    """
    session, runner = OrtSession(model), TorchRunner(weights, device)
    ((name, _, _),) = session.inputs
    tally = LikenessTally()
    for batch in batches:
        (logits,) = session.run({name: batch}).values()
        with exact_math():
            truth = run(runner, batch)
        tally.add({"logits": logits}, {"logits": truth})
    return tally.likeness()


def prove_quality(artifact: QuantizedArtifact, measured: Likeness) -> tuple[bool, str]:
    """Whether what was measured on the calibration images is what the sidecar says, and reaches
    its bounds; else what is not so."""
    stored = from_json(artifact.proof["sqnr_db"])
    if not abs(min(measured.sqnr_db, ROUNDING_DB) - min(stored, ROUNDING_DB)) <= SAME_DB:
        return False, (
            f"on the calibration images its SQNR is {decibel_text(measured.sqnr_db)} dB, and its "
            f"sidecar says {decibel_text(stored)}"
        )
    figures = {"sqnr_db": measured.sqnr_db, "agreement": measured.agreement}
    holds, detail = stored_quality({**artifact.proof, **figures})
    return holds, detail.replace("it says", "on the calibration images it has")
