"""Random graphs of linear branches and non-linear stops: fused and original agree in float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from repvgg_deploy.reparam.graph import fuse_graph
from repvgg_deploy.runners.onnx_reference import OnnxFloat64

#: Weights are float64 too, so that nothing but the order of sums differs.
EXACT = 1e-9
SIDE = (9, 8)
CHANNELS = 4

Shape = tuple[int, int, int]
#: operator, which of the last tensors it reads, a choice within the operator
Step = tuple[str, int, int]
OPERATORS = [
    "conv", "conv", "pointwise", "pointwise", "depthwise", "norm", "scalar", "channel", "Neg",
    "Identity", "pool", "pad", "join", "join", "join", "sum", "block", "block", "Relu", "output",
]  # fmt: skip


@dataclass
class Builder:
    """Grows a graph; ``shapes`` maps every rank-4 tensor to (channels, height, width)."""

    seed: int
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shapes = {"x": (CHANNELS, *SIDE)}
        self.generator = np.random.default_rng(self.seed)

    def constant(self, values: NDArray[np.generic]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def noise(self, *shape: int) -> str:
        return self.constant(self.generator.standard_normal(shape))

    def add(self, kind: str, inputs: list[str], shape: Shape, **more: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **more))
        self.shapes[name] = shape
        return name

    def step(self, kind: str, back: int, choice: int) -> None:
        names = list(self.shapes)
        x = names[-1 - back % min(len(names), 4)]
        channels, height, width = self.shapes[x]
        if kind in ("conv", "pointwise", "depthwise"):
            self.convolve(kind, x, choice)
        elif kind == "norm":
            statistics = [self.noise(channels) for _ in range(3)]
            variance = self.constant(self.generator.random(channels) + 0.1)
            self.add("BatchNormalization", [x, *statistics, variance], self.shapes[x])
        elif kind in ("scalar", "channel"):
            shape = (channels, 1, 1) if kind == "channel" else ((), (1,), (1, 1, 1, 1))[choice % 3]
            pair = [x, self.noise(*shape)]
            operator = ("Mul", "Add", "Sub", "Div", "Sub")[choice % 5]
            self.add(operator, pair[::-1] if choice % 5 in (0, 4) else pair, self.shapes[x])
        elif kind == "pool" and min(height, width) > 2:
            self.pool(x, choice)
        elif kind == "pad" and height < 14:
            top, left, bottom, right = ((1, 1, 1, 1), (0, 1, 1, 0), (2, 0, 0, 0))[choice % 3]
            sizes = self.constant(np.array([0, 0, top, left, 0, 0, bottom, right]))
            shape = (channels, height + top + bottom, width + left + right)
            self.add("Pad", [x, sizes], shape)
        elif kind in ("join", "sum"):
            others = [name for name in names if self.shapes[name] == self.shapes[x]]
            picked = [others[-1 - choice % len(others)], others[-1 - choice // 7 % len(others)]]
            if kind == "sum":
                self.add("Sum", [x, *picked], self.shapes[x])
            else:
                self.add(("Add", "Add", "Sub")[choice % 3], [x, picked[0]], self.shapes[x])
        elif kind == "block":
            self.block(x, choice)
        elif kind in ("Neg", "Identity", "Relu"):
            self.add(kind, [x], self.shapes[x])
        elif kind == "output" and x != "x" and x not in self.outputs:
            self.outputs.append(x)

    def convolve(self, kind: str, x: str, choice: int) -> None:
        channels, height, width = self.shapes[x]
        size = 1 if kind == "pointwise" else (3, 3, 2, 3)[choice % 4]
        groups = channels if kind == "depthwise" else (1, 1, 2)[choice % 3]
        groups = groups if channels % groups == 0 else 1
        filters = channels if kind == "depthwise" else (4, 4, 2, 6)[choice // 3 % 4]
        stride = 2 if choice % 11 == 0 else 1
        dilation = 2 if choice % 13 == 0 else 1
        pads = {1: [0] * 4, 2: [0, 1, 1, 0], 3: [dilation] * 4}[size]
        pads = [0] * 4 if choice % 5 == 0 else pads
        reach = dilation * (size - 1) + 1
        high = (height + pads[0] + pads[2] - reach) // stride + 1
        wide = (width + pads[1] + pads[3] - reach) // stride + 1
        if min(high, wide) < 1 or max(high, wide) > 14:
            return
        inputs = [x, self.noise(filters, channels // groups, size, size)]
        if choice % 3 == 1:
            inputs.append(self.noise(filters))
        self.add(
            "Conv", inputs, (filters, high, wide),
            group=groups, strides=[stride] * 2, dilations=[dilation] * 2, pads=pads,
        )  # fmt: skip

    def pool(self, x: str, choice: int) -> None:
        channels, height, width = self.shapes[x]
        if choice % 3 == 0:
            settings, shape = {"pads": [0] * 4, "strides": [2, 2]}, (height // 2, width // 2)
            size = 2
        else:
            settings, shape = {"pads": [1] * 4, "strides": [1, 1]}, (height, width)
            size = 3
        self.add(
            "AveragePool", [x], (channels, *shape),
            kernel_shape=[size] * 2, count_include_pad=choice % 5 > 0, **settings,
        )  # fmt: skip

    def block(self, x: str, choice: int) -> None:
        """Parallel branches of one tensor, as re-parameterized networks have them, and a norm."""
        shape = self.shapes[x]
        filters, padded = shape[0], {"pads": [1] * 4}
        branches = [x] if choice & 1 else []
        branches.append(self.add("Conv", [x, self.noise(filters, filters, 3, 3)], shape, **padded))
        if choice & 2:
            branches.append(self.add("Conv", [x, self.noise(filters, filters, 1, 1)], shape))
        if choice & 4:  # 1x1 and then 3x3, or an average pool that counts the padding
            inner = self.add("Conv", [x, self.noise(filters, filters, 1, 1)], shape)
            if choice & 8:
                kernel = self.noise(filters, filters, 3, 3)
                branches.append(self.add("Conv", [inner, kernel], shape, **padded))
            else:
                pool = {"kernel_shape": [3, 3], "count_include_pad": 1, **padded}
                branches.append(self.add("AveragePool", [inner], shape, **pool))
        if choice & 16:
            branches = branches[::-1]
        total = branches[0]
        for branch in branches[1:]:
            total = self.add("Add", [total, branch], shape)
        self.add("Mul", [total, self.noise(filters, 1, 1)], shape)

    def model(self) -> ModelProto:
        """The last tensor is always an output."""
        last = list(self.shapes)[-1]
        names = [*self.outputs, *([] if last in self.outputs else [last])]
        values = [
            helper.make_tensor_value_info(name, TensorProto.DOUBLE, [1, *self.shapes[name]])
            for name in ("x", *names)
        ]
        graph = helper.make_graph(self.nodes, "g", values[:1], values[1:], self.constants)
        opset = helper.make_opsetid("", 17)
        return helper.make_model(graph, opset_imports=[opset], ir_version=8)


def build(steps: list[Step], seed: int) -> ModelProto:
    builder = Builder(seed)
    for step in steps:
        builder.step(*step)
    return builder.model()


def outputs(model: ModelProto, x: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    copy = ModelProto()
    copy.CopyFrom(model)
    return list(OnnxFloat64(copy).run({"x": x}).values())


STEPS = st.lists(
    st.tuples(st.sampled_from(OPERATORS), st.integers(0, 3), st.integers(0, 999)),
    min_size=2, max_size=14,
)  # fmt: skip


@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS, st.integers(0, 2**32 - 1), st.booleans())
def test_fused_and_original_agree(steps: list[Step], seed: int, allow_costlier: bool) -> None:
    model = build(steps, seed)
    if not model.graph.node:
        return
    result = fuse_graph(model, allow_costlier=allow_costlier)
    x = np.random.default_rng(seed).standard_normal((1, CHANNELS, *SIDE))
    for before, after in zip(outputs(model, x), outputs(result.model, x), strict=True):
        assert before.shape == after.shape
        assert np.abs(before - after).max() <= EXACT * max(1.0, np.abs(before).max())
    assert (result.model is model) == (result.fused == ())
    assert len(result.model.graph.node) == len(model.graph.node) - sum(
        len(region.nodes) - 1 for region in result.fused
    )
    if not allow_costlier:
        assert all(region.macs_after <= region.macs_before for region in result.fused)


def test_the_fuzz_is_not_vacuous() -> None:
    """Of 300 such graphs many fuse, many keep something apart, and regions get large."""
    generator = np.random.default_rng(1)
    fused = left = largest = 0
    for seed in range(300):
        kinds = generator.choice(OPERATORS, 12)
        numbers = generator.integers(999, size=(12, 2))
        steps = [(str(k), int(a), int(b)) for k, (a, b) in zip(kinds, numbers, strict=True)]
        result = fuse_graph(build(steps, seed))
        fused += bool(result.fused)
        left += bool(result.left)
        largest = max([largest, *(len(region.nodes) for region in result.fused)])
    assert fused > 100
    assert left > 100
    assert largest >= 8
