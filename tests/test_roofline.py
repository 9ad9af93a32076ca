"""Counts from graphs, measured ceilings, and the share of them that a network reaches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper, parser

from repvgg_deploy.bench.record import Contest, Drift, Measured
from repvgg_deploy.bench.roofline import ceilings as ceilings_module
from repvgg_deploy.bench.roofline import peaks as peaks_module
from repvgg_deploy.bench.roofline.ceilings import Ceilings, find_ceilings
from repvgg_deploy.bench.roofline.counts import Counts, count
from repvgg_deploy.bench.roofline.layers import Layer
from repvgg_deploy.bench.roofline.peaks import Peaks, measure_peaks
from repvgg_deploy.bench.roofline.share import remark, roofline
from repvgg_deploy.bench.stats import Ratio, summarize
from repvgg_deploy.errors import UserError
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.export.reference import reference_onnx
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.models.zoo import ZOO

from .helpers import GOLDEN, tiny_spec
from .qdq import quantized


def model(
    inputs: str, body: str, weights: str = "", outputs: str = "float[n,c,k,l] y"
) -> ModelProto:
    constants = "".join(f"{weight}, " for weight in weights.split("; ") if weight).rstrip(", ")
    declared = f"<{constants}>" if constants else ""
    text = (
        f'<ir_version: 10, opset_import: ["" : 21]> g ({inputs}) => ({outputs}) {declared} '
        f"{{ {body} }}"
    )
    return filled(parser.parse_model(text))


def filled(parsed: ModelProto) -> ModelProto:
    """Weights that were declared by their shape alone get zeros."""
    graph = parsed.graph
    for value in list(graph.value_info):
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        zeros = np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type))
        graph.initializer.append(numpy_helper.from_array(zeros, value.name))
    return parsed


def only(counts: Counts) -> Layer:
    (layer,) = counts.layers
    return layer


@pytest.mark.parametrize(
    ("node", "kernel", "macs", "output", "winograd"),
    [
        # 8x8 outputs of 6 channels, each of 4 * 3 * 3 products; F(2x2, 3x3) takes 4 of 9.
        ("Conv<pads=[1,1,1,1]>", (6, 4, 3, 3), 8 * 8 * 6 * 36, 8 * 8 * 6, 8 * 8 * 6 * 16),
        ("Conv<pads=[1,1,1,1],group=2>", (6, 2, 3, 3), 8 * 8 * 6 * 18, 8 * 8 * 6, 8 * 8 * 6 * 8),
        ("Conv<pads=[1,1,1,1],group=4>", (4, 1, 3, 3), 8 * 8 * 4 * 9, 8 * 8 * 4, 8 * 8 * 4 * 4),
        ("Conv<pads=[1,1,1,1],strides=[2,2]>", (6, 4, 3, 3), 4 * 4 * 6 * 36, 4 * 4 * 6, None),
        ("Conv<dilations=[2,2]>", (6, 4, 3, 3), 4 * 4 * 6 * 36, 4 * 4 * 6, None),
        ("Conv", (6, 4, 1, 1), 8 * 8 * 6 * 4, 8 * 8 * 6, None),
        # Each of the 8 * 8 * 4 input numbers meets 6 * 2 * 2 weights.
        ("ConvTranspose<strides=[2,2]>", (4, 6, 2, 2), 8 * 8 * 4 * 24, 16 * 16 * 6, None),
    ],
)
def test_convolutions_by_hand(
    node: str, kernel: tuple[int, ...], macs: int, output: int, winograd: int | None
) -> None:
    kind, _, attributes = node.partition("<")
    call = f"{kind}<{attributes}" if attributes else kind
    made = model("float[n,4,8,8] x", f"y = {call}(x, w)", f"float{list(kernel)} w")
    one, two = only(count(made, 1)), only(count(made, 2))
    assert one.macs == macs and two.macs == 2 * macs
    assert one.winograd == (macs if winograd is None else winograd)
    weights = 4 * int(np.prod(kernel))
    assert one.bytes == weights + 4 * (4 * 8 * 8 + output)
    assert two.bytes == weights + 2 * 4 * (4 * 8 * 8 + output)


def test_matrix_products_by_hand() -> None:
    head = "float[n,5,1,1] x"
    gemm = model(
        head,
        "f = Flatten(x) y = Gemm<transB=1>(f, w, b)",
        "float[7,5] w; float[7] b",
        "float[n,7] y",
    )
    layer = only(count(gemm, 3))
    assert (layer.operator, layer.macs) == ("Gemm", 3 * 7 * 5)
    assert layer.bytes == 4 * (3 * 5 + 7 * 5 + 7 + 3 * 7)
    turned = model(
        head,
        "f = Flatten(x) t = Transpose(f) y = Gemm<transA=1>(t, w)",
        "float[5,7] w",
        "float[n,7] y",
    )
    assert count(turned, 3).macs == 3 * 7 * 5
    product = model(head, "f = Flatten(x) y = MatMul(f, w)", "float[5,7] w", "float[n,7] y")
    assert count(product, 3).macs == 3 * 7 * 5


def test_pointwise_operators_ride_with_the_layer_that_makes_their_input() -> None:
    weights = "float[4,4,1,1] w; float[4] s; float[4] b; float[4] m; float[4] v"
    made = model(
        "float[n,4,8,8] x",
        "c = Conv(x, w) n1 = BatchNormalization(c, s, b, m, v) r = Relu(n1) y = Add(r, x)",
        weights,
    )
    layer = only(count(made, 1))
    assert (layer.operator, layer.macs) == ("Conv", 64 * 16)
    assert layer.bytes == 4 * (256 + 16 + 256), "x once, although two of its operators read it"


def test_bytes_of_an_unfused_block_by_hand() -> None:
    """The 3x3 writes its sum for the 1x1, which adds it, and x again, to its own."""
    weights = "float[4,4,3,3] k; float[4,4,1,1] w; float[4] s; float[4] b; float[4] m; float[4] v"
    made = model(
        "float[n,4,8,8] x",
        "a = Conv<pads=[1,1,1,1]>(x, k) c = Conv(x, w) i = BatchNormalization(x, s, b, m, v) "
        "d = Add(a, c) e = Add(d, i) y = Relu(e)",
        weights,
    )
    three, one = count(made, 1).layers
    assert three.bytes == 4 * (256 + 144 + 256)
    assert one.bytes == 4 * (256 + 16 + 256 + 256)


def test_a_squeeze_reads_the_map_twice() -> None:
    made = model(
        "float[n,4,8,8] x",
        "p = GlobalAveragePool(x) q = Conv(p, w) g = Sigmoid(q) y = Mul(x, g)",
        "float[4,4,1,1] w",
    )
    pool, gate = count(made, 1).layers
    assert pool.bytes == 4 * (256 + 4)
    assert gate.bytes == 4 * (4 + 16 + 256 + 256), "the scaled map is what the gate's layer writes"


def test_int8_between_q_and_dq_is_one_byte() -> None:
    made = model(
        "float[n,4,8,8] x",
        "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) "
        "kd = DequantizeLinear(k, s, z) a = Conv<pads=[1,1,1,1]>(xd, kd) r = Relu(a) "
        "rq = QuantizeLinear(r, s, z) rd = DequantizeLinear(rq, s, z) y = Conv(rd, w)",
        "int8[4,4,3,3] k; float[4,4,1,1] w; float s; int8 z",
    )
    first, second = count(made, 1).layers
    assert (first.precision, second.precision) == ("int8", "fp32")
    assert first.bytes == 4 * 256 + 144 + 256, "the float input, int8 weights, an int8 map"
    assert second.bytes == 256 + 4 * (16 + 256)


def test_weights_that_are_quantized_in_the_graph_are_one_byte() -> None:
    made = model(
        "float[n,4,8,8] x",
        "kq = QuantizeLinear(k, s, z) kd = DequantizeLinear(kq, s, z) y = Conv(x, kd)",
        "float[4,4,1,1] k; float s; int8 z",
    )
    layer = only(count(made, 1))
    assert layer.bytes == 4 * 256 + 16 + 4 * 256 and layer.precision == "fp32"


def test_int8_network_moves_less() -> None:
    fused = to_onnx(RepVGG(tiny_spec(), "deploy").eval(), (32, 32))
    wide, narrow = count(fused, 2), count(quantized(fused, "int8", "fp32"), 2)
    assert wide.macs == narrow.macs
    assert [layer.precision for layer in narrow.layers if layer.operator == "Conv"] == ["int8"] * 6
    image = 2 * 3 * 32 * 32 * 4  # stays float32
    assert (wide.bytes - image) / 4 < narrow.bytes - image < (wide.bytes - image) / 2


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_moves_half(precision: str) -> None:
    network = RepVGG(tiny_spec(), "deploy").eval()
    half = count(to_onnx(network, (32, 32), precision=precision, opset=22), 2)
    assert 2 * half.bytes == count(to_onnx(network, (32, 32)), 2).bytes
    assert {layer.precision for layer in half.layers} == {precision}


@pytest.mark.parametrize(
    ("name", "flops", "winograd"),
    [("A0", 1.4, 0.7), ("B0", 3.1, 1.6), ("A1", 2.4, 1.3), ("A2", 5.1, 2.7), ("B1g4", 7.3, 3.9)],
)
def test_the_zoo_against_the_paper(name: str, flops: float, winograd: float) -> None:
    """RepVGG paper, table 4: "Theoretical FLOPs" (multiply-adds) and "Wino MULs", in 10^9."""
    with torch.device("meta"):
        network = RepVGG(ZOO[f"RepVGG-{name}"].spec(), "deploy")
    counts = count(to_onnx(network.to_empty(device="cpu"), (224, 224)), 1)
    assert round(counts.macs / 1e9, 1) == flops
    assert round(counts.winograd / 1e9, 1) == winograd
    parameters = sum(parameter.numel() for parameter in network.parameters())
    weightless = count(to_onnx(network.to_empty(device="cpu"), (224, 224)), 2).bytes - counts.bytes
    assert counts.bytes == 4 * parameters + weightless


@pytest.mark.parametrize(("name", "gmacs"), [("resnet18", 1.81), ("resnet50", 4.09)])
def test_residual_networks_against_the_published_counts(name: str, gmacs: float) -> None:
    assert round(count(reference_onnx(name), 1).macs / 1e9, 2) == gmacs


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.onnx")), ids=lambda path: path.stem)
def test_peers_are_counted(path: Path) -> None:
    found = onnx.load(path)
    before = found.SerializeToString()
    counts = count(found, 2)
    assert found.SerializeToString() == before
    products = [node for node in found.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len([layer for layer in counts.layers if layer.macs]) == len(products)
    weights = sum(4 * int(np.prod(t.dims)) for t in found.graph.initializer if len(t.dims) == 4)
    assert counts.bytes > weights > 0
    with pytest.raises(UserError, match=r"not \[3, None, None, None\]"):
        count(found, 3)  # they were written for 2


def test_external_weights_are_not_read(tmp_path: Path) -> None:
    fused = to_onnx(RepVGG(tiny_spec(), "deploy").eval(), (32, 32))
    expected = count(fused, 1)
    onnx.save(fused, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    (data,) = [path for path in tmp_path.iterdir() if path.suffix != ".onnx"]
    data.unlink()
    assert count(onnx.load(tmp_path / "m.onnx", load_external_data=False), 1) == expected


def test_open_sides_are_filled_in() -> None:
    made = model("float[n,4,h,w] x", "y = Conv(x, k)", "float[6,4,1,1] k")
    assert count(made, 2, (8, 4)).macs == 2 * 8 * 4 * 24
    with pytest.raises(UserError, match="not known at batch 2"):
        count(made, 2)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (model("float[4,4,8,8] x", "y = Relu(x)"), r"\[4, 4, 8, 8\], not \[2, None, None, None\]"),
        (model("float[n,4,8,8] x, float[n,4,8,8] z", "y = Add(x, z)"), r"inputs are \['x', 'z'"),
        (model("float[n,4,8,8] x", "i = NonZero(x) y = Cast<to=1>(i)"), "'i' .NonZero. is not"),
        (model("float[n,4,8,8] x", "y = MatMul(x, w)", "float[5,5] w"), "cannot be inferred"),
        (
            model("float[n,4,8,8] x", "q = QuantizeLinear(x, s, z) "
                  "c = QLinearConv(q, s, z, k, s, z, s, z) y = DequantizeLinear(c, s, z)",
                  "float s; int8 z; int8[4,4,1,1] k"),
            "QLinearConv, which is not counted",
        ),
        (
            model("float[n,4,8,8] x", "y = If(c) <then_branch = t () => (float[n,4,8,8] a) "
                  "{ a = Relu(x) }, else_branch = e () => (float[n,4,8,8] b) { b = Neg(x) }>",
                  "bool c"),
            "holds If, whose work depends on the data",
        ),
    ],
    ids=["batch", "inputs", "data", "sizes", "qlinear", "branch"],
)  # fmt: skip
def test_what_cannot_be_counted_is_said(made: ModelProto, sentence: str) -> None:
    with pytest.raises(UserError, match=rf"^net.onnx: .*{sentence}"):
        count(made, 2, name="net.onnx")


def test_foreign_operators_are_refused() -> None:
    made = model("float[n,4,8,8] x", "y = Relu(x)")
    made.graph.node[0].domain = "com.example"
    with pytest.raises(UserError, match=r"Relu of 'com\.example', whose work is not known"):
        count(made, 1)


def test_a_dangling_input_is_said() -> None:
    made = model("float[n,4,8,8] x", "y = Clip(x, low)", "float low")
    made.graph.node[0].input[1] = "nowhere"
    with pytest.raises(UserError, match="nothing makes 'nowhere', which Clip reads"):
        count(made, 1)


# Ceilings.

PEAKS = Peaks({"fp32": 1e11, "int8": 4e11}, 2e10, 0.98)


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every measurement that is taken; the first of them finds PEAKS."""
    taken: list[tuple[str, int]] = []

    def measure(device: str, threads: int) -> Peaks:
        taken.append((device, threads))
        return PEAKS

    monkeypatch.setattr(ceilings_module, "measure_peaks", measure)
    return taken


def test_ceilings_are_measured_once(tmp_path: Path, measurements: list[tuple[str, int]]) -> None:
    first, note = find_ceilings("cpu", 2, tmp_path / "cache")
    assert note is None and (first.macs, first.bytes) == (PEAKS.macs, PEAKS.bytes)
    assert (first.device, first.threads, first.torch) == ("cpu", 2, torch.__version__)
    assert find_ceilings("cpu", 2, tmp_path / "cache") == (first, None)
    assert measurements == [("cpu", 2)]
    other, _ = find_ceilings("cpu", 1, tmp_path / "cache")
    assert other.threads == 1 and measurements == [("cpu", 2), ("cpu", 1)]


@pytest.mark.parametrize(
    "damage",
    [
        "", "[]", "{", "{}", "[" * 100_000, " " * 100_000,
        {"macs": {}}, {"macs": {"fp32": -1.0}}, {"macs": {"fp32": "fast"}}, {"bytes": float("nan")},
        {"bytes": None}, {"threads": 3}, {"torch": "1.0"}, {"name": "another"}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_cache_is_measured_again_and_said_so(
    tmp_path: Path, measurements: list[tuple[str, int]], damage: str | dict[str, object]
) -> None:
    good, _ = find_ceilings("cpu", 2, tmp_path)
    (path,) = tmp_path.iterdir()
    text = damage
    if isinstance(damage, dict):
        text = json.dumps({**json.loads(path.read_text()), **damage})
    path.write_text(str(text))
    again, note = find_ceilings("cpu", 2, tmp_path)
    assert note is not None and f"{path} was damaged" in note and "measured again" in note
    assert again.macs == good.macs and len(measurements) == 2
    assert find_ceilings("cpu", 2, tmp_path) == (again, None), "the cache is whole again"


def test_ceilings_of_a_busy_cpu_are_said_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ceilings_module, "measure_peaks", lambda device, threads: Peaks(PEAKS.macs, 2e10, 0.51)
    )
    found, note = find_ceilings("cpu", 1, tmp_path)
    assert found.disturbed and note is not None and "ran for 51% of the time" in note
    assert list(tmp_path.iterdir()) == []


def test_a_real_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small, and only that it is complete and leaves torch as it was: machines are noisy."""
    monkeypatch.setattr(peaks_module, "_SIDE", {"cpu": 512})
    monkeypatch.setattr(peaks_module, "_COPIED", 1 << 20)
    monkeypatch.setattr(peaks_module, "_SECONDS", 0.0)
    monkeypatch.setattr(peaks_module, "_is_native", lambda precision, side, device: True)
    monkeypatch.setattr(
        peaks_module, "_DTYPES", dict.fromkeys(("fp32", "fp16", "bf16"), torch.float32)
    )
    threads = torch.get_num_threads()
    peaks = measure_peaks("cpu", 1)
    assert torch.get_num_threads() == threads
    assert set(peaks.macs) == {"fp32", "fp16", "bf16", "int8"}
    assert all(rate > 0 for rate in peaks.macs.values()) and peaks.bytes > 0
    assert peaks.granted is not None and peaks.granted > 0


def test_a_precision_that_torch_cannot_multiply_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def products(precision: str, side: int, device: str) -> list[peaks_module.Product]:
        raise RuntimeError("not implemented for 'Char'")

    seconds = {"fp32": 1.0, "bf16": 0.5, "fp16": 200.0}  # fp16 is emulated
    with monkeypatch.context() as patch:
        patch.setattr(
            peaks_module,
            "_fastest",
            lambda precision, *_: peaks_module.Run(seconds[precision], 1.0),
        )
        assert not peaks_module._is_native("fp16", 64, "cpu")
        assert peaks_module._is_native("bf16", 64, "cpu")
    monkeypatch.setattr(peaks_module, "_products", products)
    assert not peaks_module._is_native("int8", 64, "cpu")


# Shares.

CEILINGS = Ceilings("cpu", "a CPU", 1, "2", "today", {"fp32": 1e6, "int8": 4e6}, 1e3, 1.0)


def contest(seconds: float) -> Contest:
    drift = Drift(Ratio(1.0, None, None), True)
    times = [seconds] * 3
    measured = Measured("fused", times, summarize(times), drift)
    return Contest("torch-cpu", 1, "fused", 0, 1, [measured])


def layer(macs: int, moved: int, precision: str = "fp32") -> Layer:
    return Layer("l", "Conv", precision, macs, macs, moved)


def test_share_by_hand() -> None:
    """2 s of arithmetic and 0.5 s of bytes, then 0.25 s and 1 s."""
    counts = Counts(1, [layer(2_000_000, 500), layer(1_000_000, 1000, "int8")])
    found = roofline(contest(4.5), "fused", counts, CEILINGS)
    assert (found.runtime, found.batch, found.label) == ("torch-cpu", 1, "fused")
    assert (found.macs, found.bytes, found.winograd) == (3_000_000, 1500, 3_000_000)
    assert found.ceiling_seconds == 2.25 and found.share == 0.5 and found.bound == "arithmetic"
    assert found.layered_seconds == 3.0
    assert remark(found) is None


def test_bound_by_bytes_and_beyond_the_ceiling() -> None:
    slow = roofline(contest(4.0), "fused", Counts(1, [layer(10, 2000), layer(0, 0)]), CEILINGS)
    assert (slow.ceiling_seconds, slow.share, slow.bound) == (2.0, 0.5, "bytes")
    fast = roofline(contest(1.0), "fused", Counts(1, [layer(10, 2000)]), CEILINGS)
    assert fast.share == 2.0 and "caches" in str(remark(fast))
    winograd = roofline(contest(1.0), "fused", Counts(1, [layer(2_000_000, 1)]), CEILINGS)
    assert "fewer multiplications than counted" in str(remark(winograd))


def test_a_precision_without_a_ceiling_has_no_share() -> None:
    counts = Counts(1, [layer(0, 10, "fp8"), layer(5, 10, "fp8")])
    with pytest.raises(UserError, match="fused: torch has no fast fp8 product on a CPU"):
        roofline(contest(1.0), "fused", counts, CEILINGS)
    with pytest.raises(KeyError):
        roofline(contest(1.0), "absent", counts, CEILINGS)


def test_emulated_halves_are_computed_in_float32() -> None:
    for precision in ("fp16", "bf16"):
        counts = Counts(1, [layer(2_000_000, 10, precision)])
        assert roofline(contest(4.0), "fused", counts, CEILINGS).share == 0.5
    native = replace(CEILINGS, macs={**CEILINGS.macs, "fp16": 2e6})
    counts = Counts(1, [layer(2_000_000, 10, "fp16")])
    assert roofline(contest(4.0), "fused", counts, native).share == 0.25
