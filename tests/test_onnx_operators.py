"""Every operator a CNN may hold: our float64 evaluator, ONNX Runtime and the ONNX project's own
expected outputs agree at every opset from 7 to the newest that ONNX Runtime takes.

The models are ONNX's backend tests (they ship with the package), each at every opset at which one
of its operators has another version; and the attribute forms of old opsets, which have no backend
test any more.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from repvgg_deploy.equivalence.oracle import checked_truth, in_rounds, relative_distance
from repvgg_deploy.errors import UserError
from repvgg_deploy.runners.onnx_reference import OnnxFloat64
from repvgg_deploy.runners.onnx_session import OrtSession

OLDEST = 7
#: Operators that no CNN for images holds, or whose result is random. An operator that is not here
#: is compared: a new one that disagrees fails.
LEFT_OUT = {
    "random": "Bernoulli RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial",
    "training": "Adagrad Adam Gradient Momentum SoftmaxCrossEntropyLoss NegativeLogLikelihoodLoss",
    "sequences, text, tables": "StringConcat StringNormalizer StringSplit RegexFullMatch "
    "TfIdfVectorizer SequenceMap SequenceInsert SequenceLength SequenceEmpty SequenceAt "
    "SequenceConstruct SequenceErase SplitToSequence ConcatFromSequence Optional "
    "OptionalHasElement OptionalGetElement LabelEncoder TreeEnsemble Binarizer "
    "ArrayFeatureExtractor AttributeHasValue",
    "language models": "Attention FlexAttention LinearAttention CausalConvWithState "
    "RotaryEmbedding TensorScatter RNN GRU LSTM",
    "signals": "DFT STFT MelWeightMatrix BlackmanWindow HammingWindow HannWindow",
    "bits, files": "BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor ImageDecoder",
    "loops": "Loop Scan",
}
#: Backend tests, by how their names start, in which the evaluator, ONNX Runtime and the expected
#: output are not the same. A wrong truth is refused by :func:`checked_truth`, never certified.
KNOWN = {
    "test_hardmax": "below opset 13 the evaluator takes one axis, and ONNX all from there on",
    "test_resize_downsample_scales_linear_align_corners": "ONNX Runtime does it otherwise below 19",
    "test_resize_downsample_scales_cubic_align_corners": "ONNX Runtime does it otherwise below 19",
    "test_maxunpool_export_with_output_shape": "the evaluator reads indices as of another shape",
    "test_scatter_with": "deprecated, and the evaluator has none",
    "test_mvn": "below opset 13 the evaluator mixes float32 and float64",
    "test_dynamicquantizelinear": "the evaluator takes the scale in float32",
    "test_affine_grid": "the evaluator gives float32",
    "test_training_dropout": "random",
    "test_cast_FLOAT_to_FLOAT8": "ONNX Runtime rounds the largest number otherwise",
    "test_cast_FLOAT16_to_FLOAT8": "ONNX Runtime rounds the largest number otherwise",
    "test_cast_no_saturate_FLOAT": "ONNX Runtime rounds the largest number otherwise",
    "test_averagepool_2d_ceil_last_window_starts_on_pad": "expected to four digits only",
    "test_gridsample_bicubic": "expected to four digits only",
}
#: Operators whose every version since OLDEST has to be compared.
CNN = [
    "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant",
    "ConstantOfShape", "Conv", "ConvTranspose", "DepthToSpace", "DequantizeLinear", "Div",
    "Dropout", "Elu", "Exp", "Expand", "Flatten", "Gather", "Gelu", "Gemm", "GlobalAveragePool",
    "GlobalMaxPool", "GroupNormalization", "HardSigmoid", "HardSwish", "Identity",
    "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "MatMul",
    "Max", "MaxPool", "Min", "Mish", "Mul", "Neg", "PRelu", "Pad", "Pow", "QuantizeLinear",
    "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "Selu", "Shape",
    "Sigmoid", "Slice", "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh",
    "Tile", "Transpose", "Unsqueeze", "Upsample", "Where",
]  # fmt: skip
#: Relative distance over all values; float16 models lose more in ONNX Runtime.
BOUND, HALF_BOUND = 1e-5, 5e-3

Arrays = list[NDArray[Any]]


@cache
def newest() -> int:
    """The newest opset that ONNX Runtime takes."""
    return max(v for v in range(OLDEST, onnx.defs.onnx_opset_version() + 1) if _runs(v))


def _runs(opset: int) -> bool:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        OrtSession(Path("x.onnx"), model.SerializeToString())
    except UserError:
        return False
    return True


def version(op: str, opset: int) -> int | None:
    """Since which opset ``op`` is what it is at ``opset``; None where it is not there, or gone."""
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else int(schema.since_version)


def opsets(model: ModelProto) -> Iterator[int]:
    """The newest one of each combination of versions that the model's operators have."""
    operators = sorted({node.op_type for node in model.graph.node})
    last = {}
    for opset in range(OLDEST, newest() + 1):
        last[tuple(version(op, opset) for op in operators)] = opset
    yield from (opset for key, opset in last.items() if None not in key)


def at(model: ModelProto, opset: int) -> ModelProto | None:
    """The model as one of another opset, if it is a valid one."""
    moved = ModelProto()
    moved.CopyFrom(model)
    for entry in moved.opset_import:
        entry.version = opset if not entry.domain else entry.version
    moved.ir_version = min(moved.ir_version, 10)
    try:
        onnx.checker.check_model(moved, full_check=True)
    except Exception:  # the checker's and the inference's own types
        return None
    return moved


class Tally:
    """What was compared, by operator and version, and what disagrees."""

    def __init__(self) -> None:
        self.compared: dict[str, set[int]] = defaultdict(set)
        self.wrong: list[str] = []

    def add(self, name: str, model: ModelProto, inputs: Arrays, expected: Arrays | None) -> None:
        """One model of one opset; ``expected`` where its opset is the one they were made for."""
        constants = {tensor.name for tensor in model.graph.initializer}
        names = [value.name for value in model.graph.input if value.name not in constants]
        feed = dict(zip(names, inputs, strict=False))
        opset = next(entry.version for entry in model.opset_import if not entry.domain)
        try:
            own = OrtSession(Path("x.onnx"), model.SerializeToString()).run(feed)
        except UserError:
            return  # a model that ONNX Runtime does not run cannot be proved anyway
        half = any(array.dtype == np.float16 for array in (*inputs, *own.values()))
        bound = HALF_BOUND if half else BOUND
        try:
            truth = OnnxFloat64(model).run(feed)
        except UserError as error:
            self._differs(name, f"{name} at opset {opset}: {error}")
            return
        for number, (key, exact) in enumerate(truth.items()):
            if own[key].dtype.kind == "f" and exact.dtype != np.float64:
                self._differs(name, f"{name} at opset {opset}: gives {exact.dtype}")
            others = [("ONNX Runtime", own[key])]
            others += [("the expected output", expected[number])] if expected else []
            for who, other in others:
                if not same(other, exact, bound):
                    self._differs(name, f"{name} at opset {opset}: not what {who} has")
        for node in model.graph.node:
            since = version(node.op_type, opset)
            if since is not None:
                self.compared[node.op_type].add(since)

    def _differs(self, name: str, sentence: str) -> None:
        if not name.startswith(tuple(KNOWN)):
            self.wrong.append(sentence)


def same(one: NDArray[Any], exact: NDArray[Any], bound: float) -> bool:
    if one.shape != exact.shape:
        return False
    if one.dtype.kind not in "fiub" or exact.dtype.kind not in "fiub":
        return bool((one == exact).all())
    one, exact = one.astype(np.float64), exact.astype(np.float64)
    finite = np.isfinite(one) & np.isfinite(exact)
    others = (one[~finite] == exact[~finite]) | (np.isnan(one) & np.isnan(exact))[~finite]
    return bool(others.all()) and relative_distance(one[finite], exact[finite]) <= bound


def load(value: Any) -> NDArray[Any]:
    array = numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
    assert isinstance(array, np.ndarray | np.generic)
    return np.asarray(array)


def backend_tests() -> Iterator[tuple[str, ModelProto, Arrays, Arrays]]:
    """ONNX's own: (name, model, inputs, expected outputs)."""
    from onnx.backend.test.case.node import collect_testcases

    left_out = set(" ".join(LEFT_OUT.values()).split())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        operators = {node.op_type for node in case.model.graph.node}
        domains = {node.domain for node in case.model.graph.node}
        ends = (*case.model.graph.input, *case.model.graph.output)
        tensors = all(end.type.WhichOneof("value") == "tensor_type" for end in ends)
        # Of an operator that is a function as well, "_expanded" is the body of that function.
        expanded = "_expanded" in case.name
        if not expanded and tensors and case.data_sets and domains == {""} and operators - left_out:
            given, expected = case.data_sets[0]
            yield case.name, case.model, [*map(load, given)], [*map(load, expected)]
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data"
    for path in sorted(folder.glob("pytorch-*/*/model.onnx")):
        given, expected = (
            [load(onnx.load_tensor(str(file))) for file in sorted(path.parent.glob(pattern))]
            for pattern in ("test_data_set_0/input_*.pb", "test_data_set_0/output_*.pb")
        )
        yield path.parent.name, onnx.load(path), given, expected


SPATIAL = {"pads": [1, 0, 1, 2], "kernel_shape": [3, 4], "strides": [2, 1]}
_S, _Z = np.float32(0.05), np.int8(3)
_FOUR = np.array([0.05, 0.1, 0.02, 0.2], np.float32)


def _kernel(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(2).standard_normal(shape).astype(np.float32)


_SIZES = np.array([2, 4, 9, 3], np.int64)
_SCALES = np.array([1, 1, 2, 1.5], np.float32)
_NONE = np.zeros(0, np.float32)
#: (operator, constant inputs, attributes, first and last opset); x is [2, 4, 6, 5].
FORMS: list[tuple[str, list[Any], dict[str, Any], int, int]] = [
    ("Clip", [], {"min": -0.5, "max": 0.5}, 7, 10),
    ("Pad", [], {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 0.5}, 7, 10),
    ("Pad", [], {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "mode": "reflect"}, 7, 10),
    ("Squeeze", [], {"axes": [4]}, 7, 12),
    ("Unsqueeze", [], {"axes": [0, 5]}, 7, 12),
    ("ReduceMean", [], {"axes": [2, 3], "keepdims": 0}, 7, 17),
    ("ReduceMax", [], {"axes": [1]}, 7, 17),
    ("ReduceSum", [], {"axes": [2, 3]}, 7, 12),
    ("ReduceL2", [], {"axes": [1]}, 7, 17),
    ("Slice", [], {"axes": [2, 3], "starts": [1, 0], "ends": [5, -1]}, 7, 9),
    ("Split", [], {"axis": 1, "split": [1, 3]}, 7, 12),
    ("Upsample", [], {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "nearest"}, 7, 8),
    ("Upsample", [np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}, 9, 9),
    ("Resize", [np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}, 10, 10),
    ("Resize", [np.array([1, 1, 2, 1.5], np.float32)], {"mode": "linear"}, 10, 10),
    ("Resize", [_NONE, _SCALES], {"mode": "linear"}, 11, 99),
    ("Resize", [_NONE, _SCALES], {"mode": "cubic"}, 11, 99),
    ("Resize", [_NONE, _SCALES], {}, 11, 99),
    ("Resize", [_NONE, _SCALES], {"coordinate_transformation_mode": "asymmetric",
     "nearest_mode": "floor"}, 11, 99),
    ("Resize", [_NONE, _NONE, _SIZES], {"mode": "linear",
     "coordinate_transformation_mode": "align_corners"}, 11, 99),
    ("Upsample", [_SCALES], {"mode": "nearest"}, 9, 9),
    ("Pad", [np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64), _S], {}, 11, 99),
    ("Clip", [np.float32(-0.5), np.float32(0.5)], {}, 11, 99),
    ("Unsqueeze", [np.array([0, 5], np.int64)], {}, 13, 99),
    ("ReduceMean", [np.array([2, 3], np.int64)], {}, 18, 99),
    ("ReduceSum", [np.array([1], np.int64)], {"keepdims": 0}, 13, 99),
    ("Slice", [np.array([1, -1]), np.array([5, 0]), np.array([2, 3]), np.array([2, -1])], {},
     10, 99),
    ("Split", [np.array([1, 3], np.int64)], {"axis": 1}, 13, 99),
    ("GroupNormalization", [_FOUR[:2], _FOUR[:2]], {"num_groups": 2}, 18, 20),
    ("GroupNormalization", [_FOUR, _FOUR], {"num_groups": 2}, 21, 99),
    ("LayerNormalization", [_kernel(5), _kernel(5)], {}, 17, 99),
    ("RMSNormalization", [_kernel(5)], {}, 23, 99),
    ("LpNormalization", [], {"axis": 1}, 7, 99),
    ("MaxPool", [], {"kernel_shape": [2, 3], "dilations": [2, 1], "ceil_mode": 1,
     "strides": [2, 2]}, 10, 99),
    ("AveragePool", [], {"kernel_shape": [2, 2], "dilations": [2, 1]}, 19, 99),
    ("AveragePool", [], {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}, 7, 99),
    ("LpPool", [], {"kernel_shape": [2, 2]}, 7, 99),
    ("GlobalMaxPool", [], {}, 7, 99),
    ("ConvTranspose", [_kernel(4, 2, 3, 3), _FOUR[:2]], {"strides": [2, 3], "auto_pad":
     "SAME_UPPER"}, 7, 99),
    ("ConvTranspose", [_kernel(4, 2, 3, 3)], {"strides": [2, 3], "output_shape": [12, 14]}, 7, 99),
    ("ConvTranspose", [_kernel(4, 2, 3, 2)], {"dilations": [2, 1], "pads": [1, 0, 0, 1]}, 7, 99),
    ("Conv", [_kernel(2, 4, 3, 3)], {"dilations": [2, 1], "auto_pad": "SAME_LOWER"}, 7, 99),
    ("SpaceToDepth", [], {"blocksize": 1}, 7, 99),
    ("HardSwish", [], {}, 14, 99),
    ("Mish", [], {}, 18, 99),
    ("Gelu", [], {}, 20, 99),
    ("Gelu", [], {"approximate": "tanh"}, 20, 99),
    ("Swish", [], {}, 24, 99),
    ("Softplus", [], {}, 7, 99),
    ("Selu", [], {}, 7, 99),
    ("Celu", [], {}, 12, 99),
    ("Erf", [], {}, 9, 99),
    ("ThresholdedRelu", [], {}, 10, 99),
    ("CumSum", [np.int64(1)], {}, 11, 99),
    ("ReduceL2", [], {}, 7, 99),
    ("Concat", [_kernel(2, 3, 6, 5)], {"axis": 1}, 7, 99),
    ("Max", [_FOUR.reshape(4, 1, 1)], {}, 8, 99),
    ("Expand", [np.array([3, 1, 1, 1, 1], np.int64)], {}, 8, 99),
    ("Tile", [np.array([1, 2, 1, 3], np.int64)], {}, 7, 99),
    ("Gather", [np.array([2, 0], np.int64)], {"axis": 1}, 7, 99),
    ("Dropout", [], {"ratio": 0.3}, 7, 11),
    ("Dropout", [], {}, 7, 99),
    ("Softmax", [], {}, 7, 99),
    ("Softmax", [], {"axis": 2}, 7, 99),
    ("LogSoftmax", [], {"axis": 1}, 7, 99),
    ("AveragePool", [], {**SPATIAL, "count_include_pad": 1}, 7, 99),
    ("AveragePool", [], SPATIAL, 7, 99),
    ("AveragePool", [], {**SPATIAL, "ceil_mode": 1}, 10, 99),
    ("MaxPool", [], SPATIAL, 7, 99),
    ("MaxPool", [], {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}, 7, 99),
    ("GlobalAveragePool", [], {}, 7, 99),
    ("BatchNormalization", [_FOUR, _FOUR, _FOUR, _FOUR], {"momentum": 0.5}, 7, 99),
    ("BatchNormalization", [np.full((4, 6, 5), value, np.float32) for value in (2, 1, 0.5, 3)],
     {"spatial": 0}, 7, 8),
    ("InstanceNormalization", [_FOUR, _FOUR], {}, 7, 99),
    ("PRelu", [_FOUR.reshape(4, 1, 1)], {}, 7, 99),
    ("LeakyRelu", [], {"alpha": 0.3}, 7, 99),
    ("HardSigmoid", [], {"alpha": 0.3}, 7, 99),
    ("Elu", [], {}, 7, 99),
    ("Relu", [], {}, 7, 99),
    ("Sigmoid", [], {}, 7, 99),
    ("Mul", [_S], {}, 7, 99),
    ("Div", [_FOUR.reshape(4, 1, 1)], {}, 7, 99),
    ("Pow", [np.float32(2)], {}, 7, 99),
    ("Flatten", [], {"axis": 2}, 7, 99),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}, 7, 99),
    ("Cast", [], {"to": TensorProto.FLOAT}, 7, 99),
    ("Cast", [], {"to": TensorProto.FLOAT16}, 7, 99),
    ("LRN", [], {"size": 3}, 7, 99),
    ("DepthToSpace", [], {"blocksize": 2}, 7, 99),
    ("Conv", [_kernel(4, 1, 3, 4), _FOUR], {"group": 4, **SPATIAL}, 7, 99),
    ("ConvTranspose", [_kernel(4, 2, 2, 2)], {"strides": [2, 2]}, 7, 99),
    ("ConvTranspose", [_kernel(4, 2, 3, 3)],
     {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1], "group": 2}, 7, 99),
    ("MatMul", [_kernel(5, 3)], {}, 7, 99),
    ("Reshape", [np.array([0, -1], np.int64)], {}, 7, 99),
]  # fmt: skip
#: Quantized and dequantized again: scale, zero point, attributes, first opset.
PAIRS: list[tuple[Any, Any, dict[str, Any], int]] = [
    (_S, _Z, {}, 10),
    (_S, np.uint8(100), {}, 10),
    (_FOUR, np.array([0, 1, -2, 3], np.int8), {"axis": 1}, 13),
    (_FOUR, np.zeros(4, np.int16), {"axis": -3}, 21),
    (_S, np.uint16(30000), {}, 21),
]


def between(nodes: list[NodeProto], constants: Arrays, opset: int) -> ModelProto:
    """A 1x1 convolution of x, then ``nodes`` from t to y."""
    generator = np.random.default_rng(0)
    weights = {"w": generator.standard_normal((4, 4, 1, 1)).astype(np.float32)}
    weights |= {f"c{number}": np.asarray(values) for number, values in enumerate(constants)}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 6, 5])
    y = helper.make_empty_tensor_value_info("y")
    conv = helper.make_node("Conv", ["x", "w"], ["t"])
    held = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph([conv, *nodes], "g", [x], [y], held)
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model)
    model.graph.output[0].CopyFrom(inferred.graph.output[0])
    return model


def old_forms() -> Iterator[tuple[str, ModelProto]]:
    for op, constants, attributes, first, last in FORMS:
        names = [f"c{number}" for number in range(len(constants))]
        outputs = ["y", "y2"] if op == "Split" else ["y"]
        front = [helper.make_node("Unsqueeze", ["t"], ["u"], axes=[4])] if op == "Squeeze" else []
        node = helper.make_node(op, ["u" if front else "t", *names], outputs, **attributes)
        for opset in range(first, min(last, newest()) + 1):
            yield op, between([*front, node], constants, opset)
    for scale, zero, attributes, first in PAIRS:
        nodes = [
            helper.make_node("QuantizeLinear", ["t", "c0", "c1"], ["q"], **attributes),
            helper.make_node("DequantizeLinear", ["q", "c0", "c1"], ["y"], **attributes),
        ]
        for opset in range(first, newest() + 1):
            yield "Q/DQ", between(nodes, [scale, zero], opset)


@pytest.fixture(scope="module")
def tally() -> Tally:
    found = Tally()
    onnxruntime.set_default_logger_severity(4)
    for name, model, given, expected in backend_tests():
        made_for = next(entry.version for entry in model.opset_import if not entry.domain)
        versions = list(opsets(model))
        own = min((opset for opset in versions if opset >= made_for), default=None)
        for opset in versions:
            moved = at(model, opset)
            if moved is not None:
                found.add(name, moved, given, expected if opset == own else None)
    x = np.random.default_rng(1).standard_normal((2, 4, 6, 5)).astype(np.float32)
    for name, model in old_forms():
        found.add(name, model, [x], None)
    onnxruntime.set_default_logger_severity(2)
    return found


def test_evaluator_runtime_and_expected_outputs_agree(tally: Tally) -> None:
    assert tally.wrong == []


def test_every_version_of_a_cnns_operators_is_compared(tally: Tally) -> None:
    missing = [
        f"{op} as of opset {since}"
        for op in CNN
        for since in sorted({version(op, opset) for opset in range(OLDEST, newest() + 1)} - {None})
        if since not in tally.compared[op]
    ]
    assert missing == []
    assert len(tally.compared) > 100


def test_known_disagreements_are_refused() -> None:
    """What :data:`KNOWN` lets pass above can never certify a network."""
    node = helper.make_node("Hardmax", ["t"], ["y"])
    model = between([node], [], 12)
    rounds = [{"x": np.random.default_rng(1).standard_normal((2, 4, 6, 5)).astype(np.float32)}]
    own = in_rounds(OrtSession(Path("x.onnx"), model.SerializeToString()), rounds)
    with pytest.raises(Exception, match="cannot be proved here, because its 'y'") as raised:
        checked_truth(Path("x.onnx"), model, rounds, own)
    assert getattr(raised.value, "exit_code", None) == 3
