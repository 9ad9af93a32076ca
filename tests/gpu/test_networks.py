"""Fused networks on a GPU: equal in every precision, by every way that torch runs them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repvgg_deploy.equivalence.proof import prove_fusion
from repvgg_deploy.equivalence.samples import probe_inputs
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.runners.torch_network import exact_math
from repvgg_deploy.steps.bench_subjects import FUSED, RAW

from .equivalence import equivalence
from .networks import DTYPES, NAMES, forms
from .speed import LAYOUTS, MODES, race

CUDA = torch.device("cuda")

#: torch.compile warns of torch's own parts.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module", params=NAMES)
def networks(request: pytest.FixtureRequest) -> dict[str, RepVGG]:
    return forms(request.param)


@pytest.mark.parametrize("precision", DTYPES)
def test_fused_is_as_near_to_the_truth(networks: dict[str, RepVGG], precision: str) -> None:
    comparison = equivalence(networks, precision, CUDA)
    assert comparison.passed, comparison.reason


def test_every_block_holds_without_tf32(networks: dict[str, RepVGG]) -> None:
    proof = prove_fusion(networks[RAW], networks[FUSED], probe_inputs(3, 64, 64), CUDA)
    assert proof.passed, proof.failures


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_what_eager_gives(mode: str, layout: str) -> None:
    network = forms(NAMES[0])[FUSED].to(CUDA, memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    images = torch.from_numpy(probe_inputs(3, 64, 64)).to(CUDA, memory_format=LAYOUTS[layout])
    with exact_math():
        expected, output = network(images), MODES[mode](network, images)()
    scale = float(expected.abs().max())
    np.testing.assert_allclose(output.cpu(), expected.cpu(), atol=1e-4 * scale)


@pytest.mark.parametrize("mode", MODES)
def test_all_three_networks_are_timed(mode: str) -> None:
    """That it runs, not how long it takes."""
    images = torch.randn(2, 3, 64, 64, device=CUDA, dtype=torch.float16)
    result = race(forms(NAMES[0]), mode, images, "channels_last", 0.5)
    assert len(result["median_ms"]) == 3
    assert result["samples"] > 0
