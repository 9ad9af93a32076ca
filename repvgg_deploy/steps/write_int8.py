"""A quantized network, wherever it comes from, becomes files: proved first, all or none of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from ..artifacts import QuantizedArtifact
from ..quantize.fake import int8_tensors, to_bytes
from ..sidecar import prepare, prepare_sidecar
from ..transaction import transaction
from ..workspace import ModelFolder
from .calibration import Calibration
from .quantize_options import QuantizeOptions
from .quantize_proof import prove_integers
from .quantize_record import Outcome, describe


def write_int8(
    source: Path,
    folder: ModelFolder,
    outcome: Outcome,
    calibration: Calibration,
    options: QuantizeOptions,
) -> QuantizedArtifact:
    """Write ``int8.onnx``, its fake-quantized network and its sidecar.

    Raises:
        UserError: the folder cannot be written, or the integers cannot be checked.
        CheckFailed: ONNX Runtime's integers are not those that were meant.
    """
    path = folder.onnx("int8")
    content = to_bytes(int8_tensors(outcome.network.model, outcome.network.layers))
    with transaction(path.parent) as change:
        built = prepare(
            change,
            path,
            lambda temporary: onnx.save(outcome.quantized, temporary),
            describe(source, path, outcome, calibration, options, content),
            {folder.int8_weights: lambda temporary: temporary.write_bytes(content)},
        )
        _, height, width = calibration.fit.shape
        integers = prove_integers(source, change.place(path), (height, width))
        artifact = replace(built, proof={**built.proof, "integers": integers})
        prepare_sidecar(change, path, artifact)
    return artifact
