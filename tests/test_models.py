"""Architectures: the zoo's figures, and reading a spec off shapes."""

from __future__ import annotations

import pytest
import torch

from repvgg_deploy.errors import UserError
from repvgg_deploy.models.baseline import fold_conv_bn
from repvgg_deploy.models.build import build, check_layout, skeleton
from repvgg_deploy.models.count import count
from repvgg_deploy.models.infer import infer
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.models.spec import Form
from repvgg_deploy.models.zoo import ZOO, describe, variant_name
from repvgg_deploy.steps.weights import read_weights

from .helpers import MANIFEST, golden, tiny_spec, training_state

# name: deploy params, train params, paper params (M), MACs (B), paper FLOPs (B), Winograd (B)
# RepVGG paper (CVPR 2021), tables 4 and 5; "-": not in the paper.
PAPER = """
A0    8,309,384   9,108,968   8.30   1.36  1.4  0.7
A1   12,789,864  14,092,264  12.78   2.36  2.4  1.3
A2   25,499,944  28,210,600  25.49   5.12  5.1  2.7
B0   14,339,048  15,817,960  14.33   3.06  3.1  1.6
B1   51,829,480  57,415,016  51.82  11.82 11.8  5.9
B1g2 41,360,104  45,782,376  41.36   8.81  8.8  4.6
B1g4 36,125,416  39,966,056  36.12   7.31  7.3  3.9
B2   80,315,112  89,022,376  80.31  18.38 18.4  9.1
B2g2 63,956,712  70,846,376      -  13.68    -  7.06
B2g4 55,777,512  61,758,376  55.77  11.33 11.3  6.0
B3  110,960,872 123,085,288 110.96  26.21 26.2 12.9
B3g2 87,404,776  96,911,848      -  19.45    -  9.91
B3g4 75,626,728  83,825,128  75.62  16.06 16.1  8.4
"""
ROWS = [line.split() for line in PAPER.split("\n") if line]
TOP1 = {
    "A0": "72.41", "A1": "74.46", "A2": "76.48", "B0": "75.14", "B1": "78.37", "B1g2": "77.78",
    "B1g4": "77.58", "B2": "78.78", "B2g2": None, "B2g4": "78.50", "B3": "80.52*", "B3g2": None,
    "B3g4": "80.21*",
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_published_figure(row: list[str]) -> None:
    name, deploy, train, params, macs, flops, winograd = row
    counts = count(ZOO[f"RepVGG-{name}"].spec())
    assert f"{counts.deploy_params:,}" == deploy
    assert f"{counts.train_params:,}" == train
    assert f"{counts.macs / 1e9:.2f}" == macs
    if params != "-":  # the paper's column is cut, not rounded, after two decimals
        whole, hundredths = divmod(counts.deploy_params // 10_000, 100)
        assert f"{whole}.{hundredths:02d}" == params
        assert f"{counts.macs / 1e9:.1f}" == flops
    digits = len(winograd.split(".")[1])
    assert f"{counts.winograd_muls / 1e9:.{digits}f}" == winograd
    assert ZOO[f"RepVGG-{name}"].paper_top1 == TOP1[name]


def test_a0_with_ten_classes() -> None:
    assert count(ZOO["RepVGG-A0"].spec(num_classes=10)).deploy_params == 7_041_194


def test_multiply_adds_by_hand() -> None:
    """One 8x8 RGB image: 3x3 convs at 4x4, 2x2, 1x1, 1x1 (twice), 1x1, then the classifier.

    16*4*27 + 4*4*36 + 8*36 + 8*72 + 8*72 (the one at stride 1: 4/9) + 16*72 + 16*5.
    """
    counts = count(tiny_spec(), image_size=8)
    at_stride_2 = 16 * 4 * 27 + 4 * 4 * 36 + 8 * 36 + 8 * 72 + 16 * 72 + 16 * 5
    assert counts.macs == at_stride_2 + 8 * 72
    assert counts.winograd_muls == pytest.approx(at_stride_2 + 8 * 72 * 4 / 9)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("form", ["train", "deploy"])
def test_every_variant_is_read_off_its_shapes(name: str, form: Form) -> None:
    spec = ZOO[name].spec(num_classes=37)
    spec_read, form_read = infer(skeleton(spec, form).state_dict(), spec.eps)
    assert form_read == form
    assert spec_read.blocks == spec.blocks
    assert spec_read.num_classes == 37
    assert spec_read.aux_stages == (spec.aux_stages if form == "train" else ())
    assert describe(spec_read) == f"{name}, 37 classes"


def test_custom_networks_are_described() -> None:
    spec = tiny_spec(groups=2, se_ratio=4)
    assert variant_name(spec) is None
    assert describe(spec) == (
        "custom (repvgg, depths 1-1-2-1, widths 4-4-8-8-16, groups 2, SE), 5 classes"
    )
    assert infer(skeleton(spec, "train").state_dict(), 1e-5) == (spec, "train")


@pytest.mark.parametrize("name", MANIFEST)
def test_golden_checkpoints(name: str) -> None:
    network = read_weights(golden(name)).network
    assert network.form == MANIFEST[name]["form"]
    check_layout(network.state, network.spec, network.form)


def test_auxiliary_heads_speak_only_in_training() -> None:
    network = RepVGG(tiny_spec(family="repvggplus", depths=(1, 1, 2, 1)), "train")
    x = torch.randn(2, 3, 32, 32)
    assert set(network.train()(x)) == {"main", "stage1_aux", "stage2_aux", "stage3_first_aux"}
    assert network.eval()(x).shape == (2, 5)


def test_folding_conv_bn_keeps_the_function() -> None:
    spec = tiny_spec(se_ratio=4)
    network = build(training_state(spec), spec, "train", torch.float64)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    folded = fold_conv_bn(network)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-10, atol=1e-12)
    norms = [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 1  # the identity of the one block at stride 1


KERNEL = "stage2.0.rbr_dense.conv.weight"


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda s: _drop(s, "stage2."), "stage2 has the blocks"),
        (lambda s: _drop(s, "stage3.0."), "leaves a gap"),
        (lambda s: _drop(s, "stage0."), "block stage0: rbr_dense.conv.weight is missing"),
        (lambda s: _drop(s, "stage3.1.rbr_identity"), "stage3.1: rbr_identity is missing"),
        (lambda s: _drop(s, "linear"), "linear.weight is missing"),
        (lambda s: s.update({"stage1.0.rbr_identity.weight": torch.ones(4)}), "strides 2,1,2,2,2"),
        (lambda s: s.update({"stage2.0.rbr_identity.weight": torch.ones(4)}), "allow none"),
        (lambda s: s.update({"linear.weight": torch.ones(5, 9)}), "of shape"),
        (lambda s: s.update({"stage0.rbr_reparam.weight": torch.ones(4, 3, 3, 3)}), "beside"),
        (lambda s: s.update({KERNEL: torch.ones(8, 3, 3, 3)}), "does not fit"),
        (lambda s: s.update({KERNEL: torch.ones(8, 4, 5, 5)}), r"\[out, in, 3, 3\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(break_it: object, sentence: str) -> None:
    state = training_state()
    break_it(state)  # type: ignore[operator]
    with pytest.raises(UserError, match=sentence):
        infer(state, 1e-5)


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda s: _drop(s, "linear.bias"), "linear.bias is missing"),
        (lambda s: s.update({"linear.bias": torch.ones(6)}), r"linear.bias has shape \(6,\)"),
        (lambda s: s.update({"linear.bias": torch.ones(5).int()}), "of type torch.int32"),
    ],
)
def test_layout_is_strict(break_it: object, sentence: str) -> None:
    state = training_state()
    break_it(state)  # type: ignore[operator]
    with pytest.raises(UserError, match=sentence):
        check_layout(state, tiny_spec(), "train")


def _drop(state: dict[str, torch.Tensor], prefix: str) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        del state[key]
