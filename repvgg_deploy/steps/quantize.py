"""quantize: a fused network becomes an int8 model with Q/DQ nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import onnx

from ..artifacts import QuantizedArtifact
from ..data.spool import Spool, spooled
from ..equivalence.compare import Comparison
from ..equivalence.truth import TruthCheck
from ..equivalence.truth_file import Truth
from ..errors import CheckFailed, UserError
from ..quantize.collect import NAMELESS
from ..quantize.qdq import insert_qdq
from ..quantize.quality import Likeness
from ..quantize.quantizer import RECIPES, QuantizedNetwork, quantize
from ..sqnr import LEAST_SQNR_DB
from ..transaction import check_writable
from ..workspace import ModelFolder
from .calibration import Calibration
from .fallback import Fallback, reach_bounds
from .image_size import check_calibration_size
from .quantize_options import QuantizeOptions
from .quantize_proof import measure, prove_equalization
from .quantize_record import Outcome
from .quantize_source import float_model
from .truth import hold_graph
from .write_int8 import write_int8


@dataclass(frozen=True)
class QuantizeResult:
    """``equalized`` compares the equalized float network with the one that came."""

    path: Path
    artifact: QuantizedArtifact
    network: QuantizedNetwork
    quality: Likeness
    fallback: Fallback | None
    equalized: Comparison | None
    truth: TruthCheck | None = None


def quantize_model(
    source: Path,
    folder: ModelFolder,
    calibration: Calibration,
    options: QuantizeOptions,
    progress: Callable[[str, float], None],
    remade: Collection[str] = (),
    truth: Truth | None = None,
) -> QuantizeResult:
    """Write ``int8.onnx``, its fake-quantized network and its sidecar, all or none of them.

    ``remade`` are the precisions of float ONNX models that are exported anew afterwards. ``truth``
    are recorded outputs of the user's own model: the float network has to agree with them within
    rounding, the int8 model by its SQNR.

    Raises:
        UserError: a network or images that cannot be used, or integers that cannot be checked.
        CheckFailed: the network does not give the recorded outputs, equalization changed the
            function, the bounds are not reached, or ONNX Runtime's integers are not those that were
            meant.
    """
    path = folder.claim_int8(source)
    check_calibration_size(folder, calibration.fit, remade)
    check_writable(path)
    model = float_model(source, calibration)
    if truth is not None:
        hold_graph(source, truth, model=model)
    with spooled(calibration.fit) as images:
        network = post_training(source, model, images, options, progress)
        equalized = prove_equalization(source, model, network, images.stored)
    fallback = None
    if options.bounded:
        network, fallback = reach_bounds(
            source,
            network,
            calibration,
            options,
            lambda reduced: measure(model, to_int8(source, reduced, options), calibration),
            progress,
        )
    progress("measuring", 0.0)
    quantized = to_int8(source, network, options)
    measured = fallback.reached if fallback else measure(model, quantized, calibration)
    quality = measured.quality
    if not options.bounded and not quality.sqnr_db >= LEAST_SQNR_DB:
        raise CheckFailed(
            f"{source}: in int8 its outputs have an SQNR of {quality.sqnr_db:.1f} dB, less than "
            f"{LEAST_SQNR_DB:g}; nothing was written. Try --method thorough, more images with "
            "--samples, or let the most harmful layers stay in float with --min-sqnr."
        )
    held = None if truth is None else hold_graph(path, truth, model=quantized)
    outcome = Outcome(network, quantized, quality, measured.samples, fallback, truth=held)
    artifact = write_int8(source, folder, outcome, calibration, options)
    return QuantizeResult(path, artifact, network, quality, fallback, equalized, held)


def to_int8(source: Path, network: QuantizedNetwork, options: QuantizeOptions) -> onnx.ModelProto:
    """The model with Q/DQ nodes.

    Raises:
        UserError: names the file; a number that fp16 does not hold.
    """
    try:
        return insert_qdq(network.model, network.layers, options.float_type)
    except UserError as error:  # it knows the graph, not the file
        raise type(error)(f"{source}: {error}") from error


def post_training(
    source: Path,
    model: onnx.ModelProto,
    images: Spool,
    options: QuantizeOptions,
    progress: Callable[[str, float], None],
) -> QuantizedNetwork:
    """The network quantized on ``images``.

    Raises:
        UserError: names the file; images or a graph that cannot be used.
    """
    try:
        network = quantize(
            model,
            images.batches,
            RECIPES[options.method],
            float_type=options.float_type,
            stem=options.stem,
            linear=options.linear,
            seed=options.seed,
            progress=progress,
        )
    except UserError as error:  # it knows the graph, not the file
        told = str(error).removeprefix(f"{NAMELESS}: ")
        raise type(error)(f"{source}: {told}") from error
    if not network.layers:
        raise UserError(f"{source}: holds no convolution that could be quantized.")
    return network
