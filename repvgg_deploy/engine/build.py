"""One build. One strongly typed path: the precision is that of the ONNX model's own types.

The same calls serve TensorRT 10.x, 11.x and TensorRT-RTX 1.x.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from ..errors import CheckFailed, UserError
from .config import make_config
from .gpu import this_gpu
from .inspector import inspect_layers, inspected_mismatches
from .logger import make_logger
from .messages import explain
from .module import TensorRT
from .network import Shapes, describe, parse, profile_shapes
from .precision import layer_table, mismatches
from .request import BuildReport, BuildRequest
from .rtx_api import TensorRTRTX
from .targets import pick_targets
from .timing_cache import store_timing_cache, use_timing_cache

Say = Callable[[str, str], None]


def build(request: BuildRequest, say: Say) -> BuildReport:
    """Build, and write the plain engine bytes to ``request.engine``.

    Raises:
        UserError: the model does not parse, no target can run it, or the builder refuses it.
        CheckFailed: the network, or the finished engine, is of another precision.
    """
    trt = cast(TensorRT, importlib.import_module(request.module))
    last_error = [""]

    def listen(severity: str, message: str) -> None:
        if severity == "error":
            last_error[0] = message
        say(severity, message)

    def failed(what: str) -> UserError:
        return UserError(f"{request.onnx}: {what}: {explain(last_error[0], this_gpu())}.")

    logger = make_logger(trt, listen)
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # pybind11 for a null pointer: CUDA is unusable
        raise failed("TensorRT's builder does not start") from error
    network = parse(trt, builder, logger, Path(request.onnx))
    layers = layer_table(trt, network)
    if wrong := mismatches(layers, request.precision):
        raise CheckFailed(_wrong_precision(request, "its network", wrong))
    inputs = describe(trt, [network.get_input(i) for i in range(network.num_inputs)])
    shapes = profile_shapes(Path(request.onnx), inputs, request.options.profiles)
    targets: list[str] = []
    if request.module == "tensorrt_rtx":
        targets = pick_targets(cast(TensorRTRTX, trt), request.options.targets, layers)
    config = make_config(trt, builder, shapes, request.options, targets)
    cache_fits = use_timing_cache(config, request)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise failed("the engine could not be built")
    Path(request.engine).write_bytes(engine)
    store_timing_cache(config, request)
    inspected = _inspect(trt, logger, failed, request, targets, shapes[0])
    if inspected is not None and not any(row["inputs"] for row in inspected):
        say("warning", "the engine inspector names no types: those of the network alone are proved")
    return BuildReport(
        version=trt.__version__,
        targets=targets,
        layers=[asdict(layer) for layer in layers],
        inspected=inspected,
        inputs=inputs,
        outputs=describe(trt, [network.get_output(i) for i in range(network.num_outputs)]),
        profiles=shapes,
        cache_fits=cache_fits,
    )


def _wrong_precision(request: BuildRequest, what: str, wrong: list[str]) -> str:
    more = f" (and {len(wrong) - 1} more layers)" if len(wrong) > 1 else ""
    return (
        f"{request.onnx}: --trt {request.precision} was asked for, but {what} is not of it: "
        f"{wrong[0]}{more}; "
        "name the precision that the model is of, or give one of that precision."
    )


def _inspect(
    trt: TensorRT,
    logger: object,
    failed: Callable[[str], UserError],
    request: BuildRequest,
    targets: list[str],
    shapes: Shapes,
) -> list[dict[str, Any]] | None:
    """The engine's own layer table, None where no GPU here can load it."""
    gpu = this_gpu()
    if gpu is None or (targets and gpu.capability not in targets):
        return None
    try:
        runtime = trt.Runtime(logger)
    except (TypeError, RuntimeError) as error:  # as the builder; TensorRT-RTX's needs no CUDA
        raise failed(
            "its engine was built, but no runtime starts here to inspect it (an empty "
            "CUDA_VISIBLE_DEVICES hides the GPU from TensorRT-RTX, which then builds without it)"
        ) from error
    runtime.engine_host_code_allowed = request.options.version_compatible  # we just built it
    engine = runtime.deserialize_cuda_engine(Path(request.engine).read_bytes())
    if engine is None:
        raise CheckFailed(str(failed("its engine was built, but does not load on this GPU")))
    rows = inspect_layers(trt, engine, shapes)
    if wrong := inspected_mismatches(rows, request.precision):
        raise CheckFailed(_wrong_precision(request, "the finished engine", wrong))
    return rows
