"""Which layers harm a quantized network, and which then stay in float."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper, parser

from repvgg_deploy.errors import UserError
from repvgg_deploy.quantize.layers import QuantizedLayer
from repvgg_deploy.quantize.prepare import prepare
from repvgg_deploy.quantize.qdq import insert_qdq
from repvgg_deploy.quantize.quality import Likeness, likeness
from repvgg_deploy.quantize.quantizer import RECIPES, Images, QuantizedNetwork, quantize
from repvgg_deploy.quantize.sensitivity import (
    Sensitivity,
    float_share,
    keep_until,
    measure_layers,
    speed_cost,
)
from repvgg_deploy.runners.onnx_session import OrtSession

from .graphs import HEAD

IMAGES = np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32)
THREE = """
  a = Conv<pads=[1,1,1,1]>(x, w1)  b = Relu(a)
  c = Conv<pads=[1,1,1,1], strides=[2,2], group=2>(b, w2)  d = Relu(c)
  e = Conv(d, w3)  f = GlobalAveragePool(e)  y = Flatten(f)"""
SHAPES = {"w1": (4, 3, 3, 3), "w2": (6, 2, 3, 3), "w3": (5, 6, 1, 1)}


def network(body: str = THREE, outputs: str = "float[n,k] y") -> ModelProto:
    """x [n, 3, h, w], sizes left open, through convolutions with random weights."""
    declared = ", ".join(f"float{list(shape)} {name}" for name, shape in SHAPES.items())
    model = parser.parse_model(
        f"{HEAD} g (float[n,3,h,w] x, {declared}) => ({outputs}) {{ {body} }}"
    )
    del model.graph.input[1:]
    generator = np.random.default_rng(1)
    for name, shape in SHAPES.items():
        values = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def batches(images: NDArray[np.float32] = IMAGES) -> Images:
    return lambda: iter([images[:7], images[7:]])


def coarse(found: QuantizedNetwork, number: int, factor: float = 40) -> QuantizedNetwork:
    """The same with the input of one layer in steps far too large."""
    layers = list(found.layers)
    layers[number] = replace(layers[number], input_scale=layers[number].input_scale * factor)
    return replace(found, layers=layers)


@pytest.fixture(scope="module")
def quantized() -> QuantizedNetwork:
    return quantize(network(), batches(), RECIPES["minmax"])


def at_least(decibel: float) -> Callable[[Likeness], bool]:
    return lambda likeness: likeness.sqnr_db >= decibel


def run(model: ModelProto) -> NDArray[np.float32]:
    (output,) = OrtSession(Path(), model.SerializeToString()).run({"x": IMAGES}).values()
    return output


@pytest.mark.parametrize("number", range(3))
def test_the_layer_made_harmful_comes_first_and_is_the_one_kept(
    quantized: QuantizedNetwork, number: int
) -> None:
    harmed = coarse(quantized, number)
    ranking = measure_layers(harmed, batches())
    assert sorted(layer.name for layer in ranking) == sorted(x.name for x in harmed.layers)
    first, *others = ranking
    assert first.name == harmed.layers[number].name
    assert first.gained_db > 10 > max(abs(layer.gained_db) for layer in others)

    whole = keep_until(quantized, [], batches(), at_least(0)).steps[0]
    bound = min(whole.sqnr_db, 30) - 1  # what the network reaches without the harm
    kept = keep_until(harmed, ranking, batches(), at_least(bound))
    assert kept.names == [first.name] and kept.holds
    before, after = kept.steps
    assert before.sqnr_db < bound <= after.sqnr_db == first.sqnr_db_without
    assert after.sqnr_db - before.sqnr_db == first.gained_db


def test_figures_are_those_of_the_qdq_model(quantized: QuantizedNetwork) -> None:
    """What insert_qdq makes of the layers that are left, in ONNX Runtime, has the SQNR given."""
    harmed = coarse(quantized, 1)
    ranking = measure_layers(harmed, batches())
    truth = run(harmed.model)
    for layer in ranking:
        rest = [one for one in harmed.layers if one.name != layer.name]
        measured = likeness(run(insert_qdq(harmed.model, rest, "fp32")), truth)
        assert measured.sqnr_db == pytest.approx(layer.sqnr_db_without, abs=0.1)


def test_ranking_depends_on_nothing_but_its_arguments(quantized: QuantizedNetwork) -> None:
    ranking = measure_layers(quantized, batches())
    assert measure_layers(quantized, lambda: iter(IMAGES[:, None])) == ranking
    assert [layer.sqnr_db_without for layer in ranking] == sorted(
        (layer.sqnr_db_without for layer in ranking), reverse=True
    )


def test_progress_is_told_from_start_to_end(quantized: QuantizedNetwork) -> None:
    told: list[float] = []
    measure_layers(quantized, batches(), lambda what, share: told.append(share))
    assert told == [0, 1 / 3, 2 / 3, 1]


def test_a_layer_that_loses_nothing_gains_nothing() -> None:
    """With integers for weights and images both networks are equal, and every SQNR infinite."""
    whole = by_hand(1.0)
    images = np.array([[3, 1], [2, 5]], np.float32).reshape(2, 2, 1, 1)
    (layer,) = measure_layers(whole, lambda: iter([images]))
    assert layer == Sensitivity("only", float("inf"), 0.0, 4)
    assert keep_until(whole, [layer], lambda: iter([images]), at_least(1e9)).names == []


def test_a_bound_that_holds_keeps_nothing(quantized: QuantizedNetwork) -> None:
    ranking = measure_layers(quantized, batches())
    kept = keep_until(quantized, ranking, batches(), at_least(5))
    assert kept.names == [] and kept.holds and len(kept.steps) == 1


def test_each_step_is_a_prefix_of_the_ranking_as_measured_alone(
    quantized: QuantizedNetwork,
) -> None:
    ranking = measure_layers(quantized, batches())
    kept = keep_until(quantized, ranking, batches(), at_least(1e9))
    assert kept.names == [layer.name for layer in ranking] and kept.holds
    truth = run(quantized.model)
    for count, step in enumerate(kept.steps[:-1]):
        rest = [one for one in quantized.layers if one.name not in kept.names[:count]]
        measured = likeness(run(insert_qdq(quantized.model, rest, "fp32")), truth)
        assert step.sqnr_db == pytest.approx(measured.sqnr_db, abs=0.1)
        assert step.agreement == measured.agreement
    assert kept.steps[-1] == Likeness(float("inf"), 1.0)


def test_an_impossible_bound_is_said(quantized: QuantizedNetwork) -> None:
    ranking = measure_layers(quantized, batches())
    labels = np.zeros(len(IMAGES), np.int64)
    kept = keep_until(
        quantized, ranking, batches(), lambda found: (found.top1_drop or 0) <= -1, labels
    )
    assert not kept.holds
    assert len(kept.names) == 3 and len(kept.steps) == 4


#: Scores of two classes. In steps of 1 they are 1 0, 0 0, 0 1 and 0 0, and equals mean the first.
SCORES = np.array([[0.6, 0.4], [0.3, 0.4], [0.4, 0.6], [0.2, 0.1]], np.float32)
LABELS = np.array([0, 1, 1, 1])


def by_hand(input_scale: float) -> QuantizedNetwork:
    """An image of one pixel goes through a 1x1 kernel that leaves it alone."""
    model = parser.parse_model(
        f"""{HEAD} g (float[n,2,1,1] x) => (float[n,2] y) <float[2,2,1,1] w = {{1, 0, 0, 1}}> {{
          [only] a = Conv(x, w)  y = Flatten(a) }}"""
    )
    weight = np.eye(2, dtype=np.int8).reshape(2, 2, 1, 1)
    layer = QuantizedLayer("only", input_scale, weight, np.ones(2, np.float32), None)
    return QuantizedNetwork(prepare(model), [layer], {}, {})


def pixels() -> Images:
    return lambda: iter([SCORES.reshape(4, 2, 1, 1)])


def test_drop_in_top1_by_hand() -> None:
    """Float has 3 of 4 right and int8 2; the third answer that they share is wrong in both."""
    ranking = [Sensitivity("only", 0.0, 0.0, 4)]
    reached = lambda most: lambda found: found.top1_drop <= most  # noqa: E731
    whole = keep_until(by_hand(1.0), ranking, pixels(), reached(25), LABELS)
    error = (0.4**2 + 0.4**2) + (0.3**2 + 0.4**2) + (0.4**2 + 0.4**2) + (0.2**2 + 0.1**2)
    signal = float((SCORES.astype(np.float64) ** 2).sum())
    assert whole.names == [] and whole.holds
    assert whole.steps[0].top1_drop == 25 and whole.steps[0].agreement == 0.75
    assert whole.steps[0].sqnr_db == pytest.approx(10 * np.log10(signal / error))
    kept = keep_until(by_hand(1.0), ranking, pixels(), reached(24.9), LABELS)
    assert kept.names == ["only"] and kept.holds
    assert kept.steps == [whole.steps[0], Likeness(float("inf"), 1.0, 0.0)]


@pytest.mark.parametrize("count", [0, 3, 5])
def test_labels_of_another_number_are_refused(count: int) -> None:
    with pytest.raises(UserError, match=f"{count} labels for 4 images"):
        keep_until(by_hand(1.0), [], pixels(), at_least(0), np.zeros(count, np.int64))


TWO_MAPS = """
  a = Conv<pads=[1,1,1,1]>(x, w1)  y = Mul(a, a)
  b = Relu(a)  c = Conv<group=2>(b, w2)  z = Relu(c)  s = Shape(z)"""
TWO_OUTPUTS = "float[n,4,h,w] y, float[n,6,k,l] z, int64[4] s"


def test_outputs_count_alike_whatever_their_size() -> None:
    """The mean of the error's share in each float output, of maps that have no classes."""
    found = quantize(network(TWO_MAPS, TWO_OUTPUTS), batches(), RECIPES["minmax"])
    (whole,) = keep_until(found, [], batches(), at_least(1e9)).steps
    session = OrtSession(Path(), insert_qdq(found.model, found.layers, "fp32").SerializeToString())
    truth = OrtSession(Path(), found.model.SerializeToString()).run({"x": IMAGES})
    outputs = session.run({"x": IMAGES})
    shares = [((outputs[o] - truth[o]) ** 2).sum() / (truth[o] ** 2).sum() for o in ("y", "z")]
    assert whole.sqnr_db == pytest.approx(-10 * np.log10(np.mean(shares)), abs=0.1)
    assert whole.agreement is None and whole.top1_drop is None
    with pytest.raises(UserError, match="no class scores"):
        keep_until(found, [], batches(), at_least(0), np.zeros(len(IMAGES), np.int64))


def test_no_images_are_refused(quantized: QuantizedNetwork) -> None:
    with pytest.raises(UserError, match="no calibration images"):
        measure_layers(quantized, lambda: iter([]))


def test_a_model_without_float_outputs_is_refused() -> None:
    body = "a = Conv(x, w1)  y = ArgMax<axis=1>(a)"
    found = quantize(network(body, "int64[n,1,h,w] y"), batches(), RECIPES["minmax"])
    with pytest.raises(UserError, match="no float32 output"):
        measure_layers(found, batches())


def test_multiply_adds_by_hand(quantized: QuantizedNetwork) -> None:
    """Of images of 8 x 8: the second layer has two groups and stride 2."""
    macs = {layer.name: layer.macs for layer in measure_layers(quantized, batches())}
    assert [macs[layer.name] for layer in quantized.layers] == [
        8 * 8 * 4 * (3 * 9),
        4 * 4 * 6 * (2 * 9),
        4 * 4 * 5 * 6,
    ]


def test_multiply_adds_of_a_linear_layer() -> None:
    body = "a = Conv(x, w1)  b = GlobalAveragePool(a)  c = Flatten(b)  y = Gemm(c, v)"
    model = network(body)
    weight = np.random.default_rng(2).standard_normal((4, 7)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "v"))
    found = quantize(model, batches(), RECIPES["minmax"], linear=True)
    macs = {layer.name: layer.macs for layer in measure_layers(found, batches())}
    assert [macs[layer.name] for layer in found.layers] == [6 * 6 * 4 * 27, 4 * 7]


def test_speed_cost_is_arithmetic() -> None:
    ranking = [Sensitivity(name, 30, 1, macs) for name, macs in (("a", 41), ("b", 959))]
    assert float_share(ranking, []) == 0
    assert float_share(ranking, ["a"]) == pytest.approx(0.041)
    assert float_share(ranking, ["a", "b"]) == 1
    assert speed_cost(ranking, ["a"]) == (
        "4.1 % of the multiply-adds run in fp16; at half the rate of int8 the convolutions take "
        "up to 4.1 % longer (arithmetic, not measured)"
    )
