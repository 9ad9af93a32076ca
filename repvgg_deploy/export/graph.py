"""A RepVGG module written as an ONNX graph, node by node.

The network is made of six operators, so it is written straight from the module: no tracing, so no
shape is frozen and any opset can be asked for. (torch.onnx.export's current exporter starts at
opset 18 and fails to convert this network back to 17; its older one is deprecated.)
"""

from __future__ import annotations

from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from .. import __version__
from ..artifacts import PRODUCER
from ..models.network import RepVGG, RepVGGBlock, SqueezeExcite

INPUT, OUTPUT = "input", "logits"
DEFAULT_OPSET = 17
#: ONNX has no bf16 convolution before this.
BF16_OPSET = 22
_ELEMENT = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Writer:
    """Nodes and initializers of a graph that is being written."""

    def __init__(self, precision: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._precision = precision

    def op(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        output = f"{name}/{kind}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def weights(self, name: str, module: nn.Module, *leaves: str) -> list[str]:
        """Store tensors of a module under their state-dict keys and return those."""
        keys = [f"{name}.{leaf}" for leaf in leaves if getattr(module, leaf) is not None]
        for key, leaf in zip(keys, leaves, strict=False):
            tensor: Tensor = getattr(module, leaf)
            self.initializers.append(_initializer(key, tensor, self._precision))
        return keys

    def conv(self, name: str, conv: nn.Conv2d, x: str) -> str:
        assert not isinstance(conv.padding, str)
        top, left = conv.padding
        return self.op(
            "Conv", name, x, *self.weights(name, conv, "weight", "bias"),
            kernel_shape=conv.kernel_size, strides=conv.stride, pads=[top, left, top, left],
            dilations=conv.dilation, group=conv.groups,
        )  # fmt: skip

    def norm(self, name: str, norm: nn.Module, x: str) -> str:
        if isinstance(norm, nn.Identity):  # folded into the convolution before it
            return x
        leaves = self.weights(name, norm, "weight", "bias", "running_mean", "running_var")
        return self.op("BatchNormalization", name, x, *leaves, epsilon=norm.eps)

    def squeeze_excite(self, name: str, se: SqueezeExcite, x: str) -> str:
        scale = self.op("GlobalAveragePool", name, x)
        scale = self.op("Relu", f"{name}.down", self.conv(f"{name}.down", se.down, scale))
        scale = self.op("Sigmoid", name, self.conv(f"{name}.up", se.up, scale))
        return self.op("Mul", name, x, scale)

    def linear(self, name: str, block: RepVGGBlock, x: str) -> str:
        if block.form == "deploy":
            return self.conv(f"{name}.rbr_reparam", block.rbr_reparam, x)
        outputs = []
        for branch in ("rbr_dense", "rbr_1x1"):
            module = block.get_submodule(branch)
            if isinstance(module, nn.Conv2d):
                outputs.append(self.conv(f"{name}.{branch}", module, x))
                continue
            conv, norm = module.children()
            assert isinstance(conv, nn.Conv2d)
            output = self.conv(f"{name}.{branch}.conv", conv, x)
            outputs.append(self.norm(f"{name}.{branch}.bn", norm, output))
        total = self.op("Add", f"{name}.1", *outputs)
        if block.identity is not None:
            identity = self.norm(f"{name}.rbr_identity", block.identity, x)
            total = self.op("Add", f"{name}.2", total, identity)
        if block.outer_norm is not None:
            total = self.norm(f"{name}.bn", block.outer_norm, total)
        return total

    def block(self, name: str, block: RepVGGBlock, x: str) -> str:
        x, se = self.linear(name, block, x), block.squeeze_excite
        if se is not None and not block.se_after_relu:
            x = self.squeeze_excite(f"{name}.se", se, x)
        x = self.op("Relu", name, x)
        if se is not None and block.se_after_relu:
            x = self.squeeze_excite(f"{name}.post_se", se, x)
        return x

    def head(self, name: str, linear: nn.Linear, x: str) -> None:
        """The last layers: the mean of each channel, then ``linear``."""
        x = self.op("Flatten", "head", self.op("GlobalAveragePool", "head", x), axis=1)
        weights = self.weights(name, linear, "weight", "bias")
        self.nodes.append(
            helper.make_node("Gemm", [x, *weights], [OUTPUT], name=f"{name}/Gemm", transB=1)
        )

    def model(
        self, name: str, shape: tuple[int | None, int, int, int], classes: int, opset: int
    ) -> onnx.ModelProto:
        """What was written, of an input of ``shape`` (batch None: dynamic)."""
        size, element = "batch" if shape[0] is None else shape[0], _ELEMENT[self._precision]
        inputs = [helper.make_tensor_value_info(INPUT, element, [size, *shape[1:]])]
        outputs = [helper.make_tensor_value_info(OUTPUT, element, [size, classes])]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.initializers)
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name=PRODUCER,
            producer_version=__version__,
        )


def _initializer(key: str, tensor: Tensor, precision: str) -> onnx.TensorProto:
    values = tensor.detach().cpu().to(_TORCH[precision]).contiguous()
    raw = values.view(torch.uint8).numpy().tobytes()
    return helper.make_tensor(key, _ELEMENT[precision], values.shape, raw, raw=True)


def to_onnx(
    network: RepVGG,
    image_size: tuple[int, int],
    *,
    precision: str = "fp32",
    batch: int | None = None,
    opset: int = DEFAULT_OPSET,
) -> onnx.ModelProto:
    """Write a network, in training or deploy form, as an ONNX model.

    Input ``input`` [batch, C, height, width], output ``logits`` [batch, classes], both in
    ``precision`` like every weight; ``image_size`` is (height, width), ``batch`` None: dynamic.
    """
    writer = Writer(precision)
    x = INPUT
    for name, block in network.chain:
        x = writer.block(name, block, x)
    writer.head("linear", network.linear, x)
    spec = network.spec
    shape = (batch, spec.in_channels, *image_size)
    return writer.model("repvgg", shape, spec.num_classes, opset)
