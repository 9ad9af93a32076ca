"""Networks of every family, through their ONNX files alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from repvgg_deploy.equivalence.compare import compare
from repvgg_deploy.equivalence.graph import prove_graphs
from repvgg_deploy.reparam.graph import fuse_graph
from repvgg_deploy.runners.onnx_session import OrtSession

from .graphs import operators
from .helpers import GOLDEN

#: file -> convolutions before, blocks, and convolutions that are no block's (SE, heads)
PEERS = {
    "apple_mobileone.bn": (56, 13, 0),
    "apple_mobileone": (56, 13, 0),
    "mmpretrain_repvgg": (18, 9, 0),
    "official_ddp.bn": (18, 9, 0),
    "official_ddp": (18, 9, 0),
    "official_deployed": (9, 9, 0),
    "official_plain.bn": (18, 9, 0),
    "official_plain": (18, 9, 0),
    "official_se": (36, 9, 18),
    "repvggplus_pse": (43, 10, 23),
    "timm_mobileone.bn": (56, 13, 0),
    "timm_mobileone": (56, 13, 0),
    "timm_repvgg": (16, 8, 0),
    "yolov6_blocks": (9, 4, 1),
    "yolov6_qarepvgg.bn": (9, 4, 1),
    "yolov6_qarepvgg": (9, 4, 1),
    "yolov7_repconv": (9, 4, 1),
}


def test_no_peer_is_forgotten() -> None:
    assert {path.stem for path in GOLDEN.glob("*.onnx")} == set(PEERS)


@pytest.mark.parametrize("name", PEERS)
def test_one_conv_for_each_block(name: str, tmp_path: Path) -> None:
    before, blocks, others = PEERS[name]
    source, fused = GOLDEN / f"{name}.onnx", tmp_path / "fused.onnx"
    model = onnx.load(source)
    assert operators(model)["Conv"] == before
    result = fuse_graph(model)
    count = operators(result.model)
    assert count["Conv"] == blocks + others
    assert not {"BatchNormalization", "Add"} & set(count)
    onnx.checker.check_model(result.model, full_check=True)
    onnx.save(result.model, fused)

    arrays = np.load(GOLDEN / f"{name.removesuffix('.bn')}.npz")
    truth, own = arrays["y64"], OrtSession(source)
    feed = {own.inputs[0][0]: arrays["x"]}
    output = model.graph.output[0].name
    new = OrtSession(fused).run(feed)[output]
    assert compare(name, truth, own.run(feed)[output], new).passed
    proof = prove_graphs(source, fused, regions=[region.end for region in result.fused])
    assert proof.passed, proof.failures
    assert len(proof.regions) + len(proof.outputs) >= len(result.fused)
