"""Build options as TensorRT's builder configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from . import api, rtx_api
from .module import TensorRT
from .network import Shapes
from .options import BuildOptions


def make_config(
    trt: TensorRT,
    builder: api.Builder,
    shapes: Sequence[Shapes],
    options: BuildOptions,
    targets: Sequence[str],
) -> api.IBuilderConfig:
    """The configuration; ``targets`` are RTX compute capabilities, empty for TensorRT."""
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector names types then
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default: fp32 would not mean fp32
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.refittable:
        config.set_flag(trt.BuilderFlag.REFIT)
    for profile in shapes:
        made = builder.create_optimization_profile()
        for name, sizes in profile.items():
            made.set_shape(name, sizes["min"], sizes["opt"], sizes["max"])
        config.add_optimization_profile(made)
    if targets:
        _set_targets(cast(rtx_api.TensorRTRTX, trt), cast(rtx_api.IBuilderConfig, config), targets)
    return config


def _set_targets(
    trt: rtx_api.TensorRTRTX, config: rtx_api.IBuilderConfig, targets: Sequence[str]
) -> None:
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        config.set_compute_capability(trt.ComputeCapability.__members__[target.upper()], index)
