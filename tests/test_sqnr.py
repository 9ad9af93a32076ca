"""SQNR: values by hand, and figures of equal outputs, NaN and infinity wherever one may stand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser

from repvgg_deploy.equivalence.compare import Comparison, compare, furthest, nearest
from repvgg_deploy.evaluation.tally import Tally
from repvgg_deploy.quantize.quality import Likeness, likeness
from repvgg_deploy.sidecar import to_json
from repvgg_deploy.sqnr import EXACT, LOWEST, decibel, decibel_text, from_json, sqnr_text
from repvgg_deploy.steps.quantize_options import QuantizeOptions

from .conftest import Cli
from .graphs import HEAD

ANY = st.floats(min_value=0) | st.just(math.nan)


@pytest.mark.parametrize(
    ("signal", "error", "expected"),
    [
        (1000.0, 1.0, 30.0),
        (1.0, 1.0, 0.0),
        (1.0, 100.0, -20.0),
        (1e30, 1e-300, 3300.0),  # whose quotient is more than a float holds
        (5.0, 0.0, EXACT),
        (0.0, 0.0, EXACT),
        (0.0, 1.0, LOWEST),
        (1.0, math.inf, LOWEST),
        (1.0, math.nan, LOWEST),
        (math.nan, 0.0, LOWEST),
        (math.inf, math.nan, LOWEST),
    ],
)
def test_decibel(signal: float, error: float, expected: float) -> None:
    assert decibel(signal, error) == pytest.approx(expected)


@settings(deadline=None)
@given(ANY, ANY)
def test_every_two_results_can_be_compared_and_only_equal_outputs_are_null(
    signal: float, error: float
) -> None:
    found = decibel(signal, error)
    assert LOWEST <= found <= EXACT
    written = json.loads(to_json({"sqnr_db": found}))["sqnr_db"]
    assert (written is None) == (error == 0 and math.isfinite(signal))
    assert from_json(written) == found
    assert (decibel_text(found) == "exact") == (found == EXACT)


def test_text() -> None:
    assert (sqnr_text(31.44), sqnr_text(31.44, 0)) == ("SQNR 31.4 dB", "SQNR 31 dB")
    assert "exact" in sqnr_text(EXACT)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_every_measure_gives_the_same_figure(bad: float) -> None:
    truth = np.array([[3.0, 4.0], [1.0, 2.0]])
    off, spoilt = truth + np.array([[0.3, 0.4], [0.0, 0.0]]), truth.copy()
    spoilt[0, 0] = bad
    for found, expected in ((truth, EXACT), (off, 10 * math.log10(30 / 0.25)), (spoilt, LOWEST)):
        tally = Tally(2, labelled=False, with_confusion=False)
        tally.add(found, truth, None)
        figures = (
            compare("y", truth, truth, found).sqnr_db,
            likeness(found, truth).sqnr_db,
            tally.scores().sqnr_db,
        )
        assert figures == pytest.approx((expected,) * 3)


def test_cosine_of_zeros() -> None:
    zeros, ones = np.zeros((2, 3)), np.ones((2, 3))
    assert compare("y", zeros, zeros, zeros).cosine == 1
    found = compare("y", zeros, zeros, ones)
    assert found.cosine == 0
    assert not found.passed and "holds NaN" not in found.reason


def test_a_ratio_that_is_nan_is_neither_nearest_nor_hidden_by_another() -> None:
    truth, nan = np.ones((1, 2)), np.full((1, 2), math.nan)
    good, bad = compare("good", truth, truth, truth), compare("bad", truth, nan, truth)
    assert math.isnan(bad.ratio)

    def names(*found: Comparison) -> tuple[str, str]:
        worst = furthest(found)
        assert worst is not None
        return worst.name, nearest(found).name

    assert names(good, bad) == names(bad, good) == ("bad", "good")


def test_no_bound_holds_of_outputs_that_are_not_finite() -> None:
    options = QuantizeOptions(max_drop=1.0)
    assert options.hold(Likeness(EXACT, 1.0, 0.0))
    assert not options.hold(Likeness(LOWEST, 1.0, 0.0))


def test_an_int8_model_that_is_exact(cli: Cli) -> None:
    """Weights of zero, so that int8 gives what float does."""
    zeros = ", ".join("0" * 6)
    model = parser.parse_model(
        f"{HEAD} g (float[n,2,6,6] x) => (float[n,3] y) <float[3,2,1,1] k = {{{zeros}}}>"
        "{ a = Conv(x, k) b = Relu(a) c = GlobalAveragePool(b) y = Flatten(c) }"
    )
    onnx.save(model, "zero.onnx")
    images = np.random.default_rng(0).standard_normal((64, 2, 6, 6)).astype(np.float32)
    np.save("images.npy", images)
    result = cli("quantize", "zero.onnx", "--calib", "images.npy", "--float", "fp32", "--json")
    assert result.code == 0, result.err
    assert "SQNR exact" in result.err
    assert json.loads(result.out)["proof"]["sqnr_db"] is None
    sidecar = Path("engines/zero/int8.onnx.json")
    assert json.loads(sidecar.read_text())["proof"]["sqnr_db"] is None
    again = cli("verify", "zero.onnx", "engines/zero/int8.onnx")
    assert again.code == 0, again.err
    chain = cli("inspect", "engines/zero/int8.onnx")
    assert chain.code == 0, chain.err
