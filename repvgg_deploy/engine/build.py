"""The builder. One strongly typed path: the precision is that of the ONNX model's own types.

The same calls serve TensorRT 10.x, 11.x and TensorRT-RTX 1.x, whose Python API is TensorRT 11's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import UserError
from .flavour import Flavour


@dataclass(frozen=True)
class Profile:
    """Batch sizes of an optimization profile: it runs min to max and is tuned for opt."""

    min: int
    opt: int
    max: int


def _logger(trt: ModuleType, messages: list[str]) -> Any:
    """A logger that keeps warnings and errors, for our own messages to quote."""

    class Keep(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.Logger.ERROR, trt.Logger.INTERNAL_ERROR):
                messages.append(message.strip())

    return Keep()


def build_engine(
    flavour: Flavour,
    onnx_path: Path,
    shape: list[int],
    profile: Profile,
    targets: list[str],
) -> memoryview:
    """Build and return the plain engine bytes.

    ``shape`` is the model's [N, C, H, W], N 0 where it is dynamic. ``targets`` are RTX compute
    capabilities; TensorRT takes none and builds for this machine's GPU.

    Raises:
        UserError: the model does not parse, or the builder refuses it; with the builder's words.
    """
    trt = flavour.module
    messages: list[str] = []
    logger = _logger(trt, messages)
    builder = trt.Builder(logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise UserError(f"{onnx_path}: {flavour.name} cannot parse it: {errors}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default: fp32 would not mean fp32
    if shape[0] == 0:
        config.add_optimization_profile(_profile(builder, network, shape, profile))
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            capability = getattr(trt.ComputeCapability, target.upper())
            config.set_compute_capability(capability, index)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        said = messages[-1] if messages else "nothing"
        raise UserError(f"{onnx_path}: {flavour.name} could not build it; the builder said: {said}")
    return memoryview(engine)


def _profile(builder: Any, network: Any, shape: list[int], profile: Profile) -> Any:
    made = builder.create_optimization_profile()
    sizes = [(batch, *shape[1:]) for batch in (profile.min, profile.opt, profile.max)]
    made.set_shape(network.get_input(0).name, *sizes)
    return made
