"""fuse() and prove_modules() on models that live on a GPU."""

from __future__ import annotations

import pytest
import torch

from repvgg_deploy import fuse, prove_modules

from .. import module_nets as nets
from ..module_nets import trained


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_model_on_cuda(dtype: torch.dtype, layout: torch.memory_format) -> None:
    model = trained(nets.RepVGG(width=16, se=True)).to("cuda", dtype).to(memory_format=layout)
    fused = fuse(model)
    assert {(p.device.type, p.dtype) for p in fused.parameters()} == {("cuda", dtype)}
    x = torch.randn(4, 3, 32, 32, device="cuda")
    proof = prove_modules(model, fused, x)
    assert proof.passed, proof.failures


def test_default_device_and_autocast_do_not_matter() -> None:
    model = trained(nets.RepVGG())
    with torch.device("cuda"), torch.autocast("cuda"):
        fused = fuse(model)
    assert {p.device.type for p in fused.parameters()} == {"cpu"}
    assert prove_modules(model, fused, torch.randn(2, 3, 16, 16)).passed


def test_data_parallel() -> None:
    model = torch.nn.DataParallel(trained(nets.RepVGG()).cuda()).eval()
    x = torch.randn(4, 3, 32, 32, device="cuda")
    assert torch.allclose(fuse(model)(x), model(x), atol=1e-2)
