"""The modules ``tensorrt`` and ``tensorrt_rtx`` themselves: classes and enums that this tool uses.

Beside api.py, since classes there have the names of the attributes here.
"""

from __future__ import annotations

from typing import Any, Protocol

from . import api


class DataType(Protocol):
    FLOAT: api.Member
    HALF: api.Member
    BF16: api.Member
    FP8: api.Member
    INT8: api.Member
    INT32: api.Member
    INT64: api.Member
    BOOL: api.Member
    UINT8: api.Member


class LayerType(Protocol):
    CONVOLUTION: api.Member
    DECONVOLUTION: api.Member
    MATRIX_MULTIPLY: api.Member
    EINSUM: api.Member
    DEQUANTIZE: api.Member
    SHUFFLE: api.Member
    SQUEEZE: api.Member
    UNSQUEEZE: api.Member
    IDENTITY: api.Member


class BuilderFlag(Protocol):
    TF32: api.Member
    REFIT: api.Member
    VERSION_COMPATIBLE: api.Member


class NetworkDefinitionCreationFlag(Protocol):
    STRONGLY_TYPED: api.Member


class MemoryPoolType(Protocol):
    WORKSPACE: api.Member


class HardwareCompatibilityLevel(Protocol):
    AMPERE_PLUS: api.Member


class ProfilingVerbosity(Protocol):
    NONE: api.Member
    DETAILED: api.Member


class LayerInformationFormat(Protocol):
    JSON: api.Member


class TensorIOMode(Protocol):
    INPUT: api.Member


class TensorLocation(Protocol):
    DEVICE: api.Member


class Severity(Protocol):
    """Nested in ``ILogger``, as ``ILogger.Severity``; ``Logger`` has its members too."""

    INTERNAL_ERROR: api.Member
    ERROR: api.Member
    WARNING: api.Member
    INFO: api.Member
    VERBOSE: api.Member


class TensorRT(Protocol):
    """``import tensorrt`` (10.x, 11.x), and the part of ``tensorrt_rtx`` that is the same."""

    __version__: str

    @property
    def DataType(self) -> DataType: ...
    @property
    def LayerType(self) -> LayerType: ...
    @property
    def BuilderFlag(self) -> BuilderFlag: ...
    @property
    def NetworkDefinitionCreationFlag(self) -> NetworkDefinitionCreationFlag: ...
    @property
    def MemoryPoolType(self) -> MemoryPoolType: ...
    @property
    def HardwareCompatibilityLevel(self) -> HardwareCompatibilityLevel: ...
    @property
    def ProfilingVerbosity(self) -> ProfilingVerbosity: ...
    @property
    def LayerInformationFormat(self) -> LayerInformationFormat: ...
    @property
    def TensorIOMode(self) -> TensorIOMode: ...
    @property
    def TensorLocation(self) -> TensorLocation: ...
    @property
    def Logger(self) -> Severity: ...
    @property
    def ILogger(self) -> Any:
        """Base class of loggers: subclasses define ``log(severity, message)``."""

    @property
    def IConvolutionLayer(self) -> Any:
        """Set as the ``__class__`` of a layer of that type, which then has its attributes."""

    @property
    def IDeconvolutionLayer(self) -> Any:
        """As IConvolutionLayer."""

    def Builder(self, logger: object) -> api.Builder: ...
    def OnnxParser(self, network: api.INetworkDefinition, logger: object) -> api.OnnxParser: ...
    def Runtime(self, logger: object) -> api.Runtime: ...
