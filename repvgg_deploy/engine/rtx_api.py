"""What TensorRT-RTX has beyond TensorRT: targets chosen ahead of time, and a runtime cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from . import api
from .module import TensorRT


class IBuilderConfig(api.IBuilderConfig, Protocol):
    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: api.Member, index: int) -> bool: ...


class IRuntimeCache(Protocol):
    """Kernels that were compiled for this GPU when the engine first ran."""

    def serialize(self) -> api.IHostMemory: ...
    def deserialize(self, blob: bytes) -> bool: ...


class IRuntimeConfig(Protocol):
    cuda_graph_strategy: api.Member
    dynamic_shapes_kernel_specialization_strategy: api.Member

    def create_runtime_cache(self) -> IRuntimeCache: ...
    def set_runtime_cache(self, cache: IRuntimeCache) -> bool: ...


class ICudaEngine(api.ICudaEngine, Protocol):
    def create_runtime_config(self) -> IRuntimeConfig: ...
    def create_execution_context(
        self, runtime_config: IRuntimeConfig = ...
    ) -> api.IExecutionContext | None: ...


class ComputeCapability(Protocol):
    """SM75, SM80, ...; which there are depends on the version."""

    @property
    def __members__(self) -> Mapping[str, api.Member]: ...


class CudaGraphStrategy(Protocol):
    WHOLE_GRAPH_CAPTURE: api.Member


class DynamicShapesKernelSpecializationStrategy(Protocol):
    EAGER: api.Member


class TensorRTRTX(TensorRT, Protocol):
    """``import tensorrt_rtx``"""

    @property
    def ComputeCapability(self) -> ComputeCapability: ...
    @property
    def CudaGraphStrategy(self) -> CudaGraphStrategy: ...
    @property
    def DynamicShapesKernelSpecializationStrategy(
        self,
    ) -> DynamicShapesKernelSpecializationStrategy: ...
