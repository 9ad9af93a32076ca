"""quantize: a fused network becomes an int8 model with Q/DQ nodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from ..artifacts import QuantizedArtifact
from ..data.spool import spooled
from ..equivalence.compare import Comparison
from ..errors import CheckFailed, UserError
from ..export.graph import to_onnx
from ..export.simplify import simplify
from ..files import folder_beside, is_onnx, new_folder
from ..quantize.fake import int8_tensors, to_bytes
from ..quantize.qdq import insert_qdq
from ..quantize.quality import Likeness
from ..quantize.quantizer import RECIPES, QuantizedNetwork, quantize
from ..reparam.graph.files import load_model
from ..runners.onnx_info import read_onnx_info
from ..sidecar import store
from ..workspace import ModelFolder
from .calibration import BATCH, Calibration
from .fallback import Fallback, reach_bounds
from .quantize_proof import measure, prove_equalization, prove_integers
from .quantize_record import Outcome, QuantizeOptions, describe
from .weights import read_weights

#: Below this a network has lost its answers, not some precision, and nothing is written.
LEAST_SQNR_DB = 15.0
#: Images on which the equalized network is held against the one it was made from.
_PROOF_IMAGES = 8


@dataclass(frozen=True)
class QuantizeResult:
    """``equalized`` compares the equalized float network with the one that came; ``unchecked`` says
    why the integers were not held against torch, empty where they were."""

    path: Path
    artifact: QuantizedArtifact
    network: QuantizedNetwork
    quality: Likeness
    fallback: Fallback | None
    equalized: Comparison | None
    unchecked: str


def input_channels(source: Path) -> int:
    """Of fused weights, or of an ONNX model with one image input.

    Raises:
        UserError: neither.
    """
    if is_onnx(source):
        return read_onnx_info(source).channels
    return read_weights(source).network.spec.in_channels


def float_model(source: Path, image_size: tuple[int, int]) -> onnx.ModelProto:
    """The fp32 ONNX model of fused weights, at (height, width), or a user's own.

    Raises:
        UserError: no whole network, not fp32, or of external data that cannot be read.
    """
    if is_onnx(source):
        return load_model(source)
    network = read_weights(source).network
    return simplify(to_onnx(network.build(), image_size), network.spec.has_se)


def quantize_model(
    source: Path,
    folder: ModelFolder,
    calibration: Calibration,
    options: QuantizeOptions,
    progress: Callable[[str, float], None],
) -> QuantizeResult:
    """Write ``int8.onnx``, its fake-quantized network and its sidecar, all or none of them.

    Raises:
        UserError: a network or images that cannot be used.
        CheckFailed: equalization changed the function, the bounds are not reached, or ONNX
            Runtime's integers are not those that were meant.
    """
    model = float_model(source, (calibration.fit.shape[1], calibration.fit.shape[2]))
    with spooled(calibration.fit) as images:
        network = quantize(
            model,
            lambda: (images[i : i + BATCH] for i in range(0, len(images), BATCH)),
            RECIPES[options.method],
            float_type=options.float_type,
            stem=options.stem,
            linear=options.linear,
            seed=options.seed,
            progress=progress,
        )
        if not network.layers:
            raise UserError(f"{source}: holds no convolution that could be quantized.")
        equalized = prove_equalization(source, model, network, images[:_PROOF_IMAGES])
    fallback = None
    if options.min_sqnr_db is not None or options.max_drop is not None:
        network, fallback = reach_bounds(
            network, calibration, options.min_sqnr_db, options.max_drop, progress
        )
    progress("measuring", 0.0)
    quantized = insert_qdq(network.model, network.layers, options.float_type)
    quality, samples = measure(model, quantized, calibration)
    _check_bounds(source, quality, options)
    content = to_bytes(int8_tensors(network.model, network.layers))
    path = folder.onnx("int8")
    with new_folder(path.parent), folder_beside(path) as aside:
        staged = ModelFolder(aside)
        outcome = Outcome(network, quantized, quality, samples, fallback)
        described = describe(source, path, outcome, calibration, options, content)
        built = store(
            staged.onnx("int8"),
            lambda temporary: onnx.save(quantized, temporary),
            described,
            {staged.int8_weights: lambda temporary: temporary.write_bytes(content)},
        )
        integers, unchecked = prove_integers(source, staged.onnx("int8"))
        artifact = replace(built, proof={**built.proof, "integers": integers})
        store(
            path,
            staged.onnx("int8").replace,
            lambda _sha256: artifact,
            {folder.int8_weights: staged.int8_weights.replace},
        )
    return QuantizeResult(path, artifact, network, quality, fallback, equalized, unchecked)


def _check_bounds(source: Path, quality: Likeness, options: QuantizeOptions) -> None:
    least = LEAST_SQNR_DB if options.min_sqnr_db is None else options.min_sqnr_db
    if not quality.sqnr_db >= least:
        more = "ask for less, or leave the rest in fp32 with --float fp32"
        if options.min_sqnr_db is None:
            more = "or let the most harmful layers stay in float with --min-sqnr"
        raise CheckFailed(
            f"{source}: in int8 its outputs have an SQNR of {quality.sqnr_db:.1f} dB, less than "
            f"{least:g}; nothing was written. Try --method thorough, more images with --samples, "
            f"{more}."
        )
    drop, most = quality.top1_drop, options.max_drop
    if most is not None and (drop is None or drop > most):
        raise CheckFailed(
            f"{source}: in int8 its top-1 falls by {drop or 0:.2f} points, more than {most:g}; "
            "nothing was written."
        )
