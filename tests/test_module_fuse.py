"""fuse() on torch modules: every block of every family becomes one convolution, or says why not."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import repvgg_deploy
from repvgg_deploy import BlockFamily, conv_bn, fuse, fuse_modules, norm, prove_modules
from repvgg_deploy.reparam.modules.swap import FusedBlock

from . import module_nets as nets
from .module_nets import RepVGGBlock, trained

BLOCKS: dict[str, tuple[Callable[[], nn.Module], str, str, str]] = {
    "official": (lambda: RepVGGBlock(4, 4), "repvgg", "RepVGGBlock", "rbr_reparam"),
    "strided": (lambda: RepVGGBlock(4, 6, 2), "repvgg", "RepVGGBlock", "rbr_reparam"),
    "grouped": (lambda: RepVGGBlock(4, 4, groups=2), "repvgg", "RepVGGBlock", "rbr_reparam"),
    "depthwise": (lambda: RepVGGBlock(4, 4, groups=4), "repvgg", "RepVGGBlock", "rbr_reparam"),
    "dilated": (lambda: RepVGGBlock(4, 4, dilation=4), "repvgg", "RepVGGBlock", "rbr_reparam"),
    "se": (lambda: RepVGGBlock(4, 4, se=True), "repvgg", "RepVGGBlock", "rbr_reparam"),
    "post se": (lambda: RepVGGBlock(4, 4, post_se=True), "repvgg", "RepVGGBlock", "rbr_reparam"),
    "yolov7": (lambda: nets.RepConv(4, 4), "yolov7", "RepConv", "rbr_reparam"),
    "qa": (lambda: nets.QARepVGGBlock(4, 4), "yolov6-qarepvgg", "QARepVGGBlock", "rbr_reparam"),
    "qa strided": (
        lambda: nets.QARepVGGBlock(4, 4, 2), "yolov6-qarepvgg", "QARepVGGBlock", "rbr_reparam",
    ),
    "qa v2": (
        lambda: nets.QARepVGGBlock(4, 4, pool=True),
        "yolov6-qarepvgg-v2", "QARepVGGBlockV2", "rbr_reparam",
    ),
    "mobileone": (
        lambda: nets.MobileOneBlock(4, 4, 3, 3, groups=4),
        "mobileone", "MobileOneBlock", "reparam_conv",
    ),
    "mobileone 1x1": (
        lambda: nets.MobileOneBlock(4, 8, 1, 2), "mobileone", "MobileOneBlock", "reparam_conv",
    ),
    "repmixer": (lambda: nets.RepMixer(4), "fastvit", "RepMixer", "reparam_conv"),
    "repmixer, no scale": (
        lambda: nets.RepMixer(4, scale=False),
        "fastvit", "RepMixer without layer scale", "reparam_conv",
    ),
    "repopt": (lambda: nets.LinearAddBlock(4, 4), "repopt-vgg", "LinearAddBlock", "conv"),
    "repopt, wider": (lambda: nets.LinearAddBlock(4, 6), "repopt-vgg", "LinearAddBlock", "conv"),
    "rtdetr": (lambda: nets.RepVggBlock(4, 6), "rtdetr", "RepVggBlock", "conv"),
    "rtdetr, same": (lambda: nets.RepVggBlock(4, 4), "rtdetr", "RepVggBlock", "conv"),
    "repvit": (lambda: nets.RepVGGDW(4), "repvit", "RepVggDw", ""),
}  # fmt: skip


def convolutions(model: nn.Module) -> int:
    return sum(isinstance(module, nn.Conv2d) for module in model.modules())


def images(channels: int = 4, **options: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, channels, 13, 14, generator=generator).to(**options)


def same(a: nn.Module, b: nn.Module, x: Tensor) -> None:
    proof = prove_modules(a, b, x)
    assert proof.passed, proof.failures


@pytest.mark.parametrize("name", BLOCKS)
def test_every_family_as_root_and_below(name: str) -> None:
    make, family, block, fused_name = BLOCKS[name]
    for model, path in ((trained(make()), ""), (trained(nn.ModuleDict({"a": make()})), "a")):
        fusion = fuse_modules(model)
        assert not fusion.left
        (one,) = fusion.fused
        assert (one.path, one.family, one.block) == (path, family, block)
        original, fused = model.get_submodule(path), fusion.model.get_submodule(path)
        linear = fused.get_submodule(fused_name)
        assert type(linear) is nn.Conv2d
        assert linear.kernel_size == one.kernel_size
        assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
        same(original, fused, images())
        exact = copy.deepcopy(original).double()(images().double())
        assert torch.allclose(fused(images()).double(), exact, atol=1e-4)


def test_a_linear_head_behind_a_batch_norm() -> None:
    model = trained(nn.Sequential(nets.RepVGGDW(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model.add_module("head", trained(nets.repvit_head(4, 5)))
    fused = fuse(model)
    assert type(fused.head) is nn.Linear
    same(model, fused, images())


def test_zcls_blocks_become_convolutions_themselves() -> None:
    """Their activation stands beside them; the paths tell them from the official ones."""

    class ZclsBlock(RepVGGBlock):
        def __init__(self, cin: int, out: int) -> None:
            super().__init__(cin, out)
            del self.nonlinearity, self.se, self.post_se

        def forward(self, x: Tensor) -> Tensor:
            return self.rbr_dense(x) + self.rbr_1x1(x) + self.rbr_identity(x)

    stage = nn.Sequential(nn.Sequential(ZclsBlock(4, 4), nn.ReLU()))
    model = trained(nn.Sequential(OrderedDict(stage1=stage)))
    fusion = fuse_modules(model)
    assert [one.family for one in fusion.fused] == ["zcls"]
    assert set(fusion.model.state_dict()) == {"stage1.0.0.weight", "stage1.0.0.bias"}
    same(model, fusion.model, images())


def test_deploy_keys_are_the_code_bases_own() -> None:
    fused = fuse(trained(nets.RepVGG(se=True)))
    keys = {key for key in fused.state_dict() if key.startswith("stage1.0")}
    se = {f"stage1.0.se.{n}.{leaf}" for n in ("up", "down") for leaf in ("weight", "bias")}
    assert keys == {"stage1.0.rbr_reparam.weight", "stage1.0.rbr_reparam.bias", *se}


def test_the_original_is_untouched_bit_for_bit() -> None:
    model = trained(nets.RepVGG())
    before = copy.deepcopy(model.state_dict())
    fused = fuse(model)
    assert model is not fused
    assert type(model.stage0) is RepVGGBlock
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in fused.parameters()}
    assert not shared


@pytest.mark.parametrize("root", [False, True])
def test_inplace(root: bool) -> None:
    model = trained(RepVGGBlock(4, 4) if root else nn.Sequential(RepVGGBlock(4, 4)))
    original = copy.deepcopy(model)
    assert fuse(model, inplace=True) is model
    assert convolutions(model) == 1
    same(original, model, images())


def test_the_pspnet_example() -> None:
    """The official example takes the stages out and dilates the last two."""

    class PSPNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            backbone = nets.RepVGG()
            self.layer0, self.layer1, self.layer2 = (
                backbone.stage0,
                backbone.stage1,
                backbone.stage2,
            )
            for name, module in self.layer2.named_modules():
                if isinstance(module, nn.Conv2d) and "rbr_dense" in name:
                    module.dilation, module.padding, module.stride = (2, 2), (2, 2), (1, 1)
                if isinstance(module, nn.Conv2d) and "rbr_1x1" in name:
                    module.stride = (1, 1)
            self.ppm = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x: Tensor) -> dict[str, object]:
            deep = self.layer2(self.layer1(self.layer0(x)))
            return {
                "main": F.interpolate(self.ppm(deep), deep.shape[2:]),
                "aux": (deep, deep.sum()),
            }

    model = trained(PSPNet())
    fusion = fuse_modules(model)
    assert len(fusion.fused) == 5
    assert fusion.model.layer2[1].rbr_reparam.dilation == (2, 2)
    proof = prove_modules(model, fusion.model, images(3))
    assert proof.passed, proof.failures
    names = [part.name for part in proof.outputs]
    assert names == ["output['main']", "output['aux'][0]", "output['aux'][1]"]
    assert len(proof.blocks) == 5


def test_blocks_in_python_lists_keep_hooks_and_attributes() -> None:
    """Detectors route by plain attributes (YOLO's i, f and type) and lists of blocks."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(nets.RepConv(3, 4), nets.RepConv(4, 4))
            self.order = [(f"block{i}", block) for i, block in enumerate(self.model)]
            for i, block in enumerate(self.model):
                block.i, block.f, block.type = i, -1, "RepConv"

        def forward(self, x: Tensor) -> list[Tensor]:
            outputs = []
            for _, block in self.order:
                x = block(x)
                outputs.append(x)
            return outputs

    model = trained(Detector())
    seen: list[str] = []
    model.model[0].register_forward_hook(lambda *_: seen.append("hook"))
    model.model[1].register_forward_pre_hook(lambda *_: seen.append("pre-hook"))
    fused = fuse(model)
    assert not seen, "finding and checking blocks must not fire hooks"
    assert convolutions(fused) == 2
    assert fused.order[1][1] is fused.model[1]
    assert (fused.model[1].i, fused.model[1].f, fused.model[1].type) == (1, -1, "RepConv")
    fused(images(3))
    assert seen == ["hook", "pre-hook"]
    same(model, fused, images(3))


def test_a_block_used_twice_is_fused_once_and_still_shared() -> None:
    block = RepVGGBlock(4, 4)
    model = trained(nn.Sequential(block, nn.ReLU(), block))
    fusion = fuse_modules(model)
    assert [one.paths for one in fusion.fused] == [("0", "2")]
    assert fusion.model[0] is fusion.model[2]
    same(model, fusion.model, images())


@pytest.mark.parametrize("first", [False, True])
def test_a_block_inside_another_that_is_used_elsewhere_too(first: bool) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            mixer = nets.RepMixer(4)
            self.before = mixer.mixer if first else nn.Identity()
            self.mixer = mixer
            self.after = mixer.mixer

        def forward(self, x: Tensor) -> Tensor:
            return self.after(self.mixer(self.before(x)))

    model = trained(Shared())
    fusion = fuse_modules(model)
    assert not fusion.left
    alias = ("before", "after") if first else ("after",)
    assert sorted(one.paths for one in fusion.fused) == sorted([("mixer",), alias])
    assert fusion.fused[0].path == ("before" if first else "mixer")
    assert convolutions(fusion.model) == 2
    same(model, fusion.model, images())


def test_wrappers_stay() -> None:
    model = trained(nets.RepVGG())
    parallel = fuse(nn.DataParallel(model))
    assert type(parallel) is nn.DataParallel
    assert convolutions(parallel) == 5
    same(model, parallel, images(3))
    twice = fuse(nn.Sequential(torch.nn.DataParallel(RepVGGBlock(3, 4))).eval())
    assert type(twice[0].module) is FusedBlock


@pytest.mark.parametrize("inplace", [False, True])
def test_compiled_models(inplace: bool) -> None:
    model = trained(nets.RepVGG())
    compiled = torch.compile(model, backend="eager")
    expected = compiled(images(3))
    original = copy.deepcopy(model)
    fused = fuse(compiled, inplace=inplace)
    assert type(fused) is type(compiled)
    ran: list[int] = []
    fused.stage0.rbr_reparam.register_forward_hook(lambda *_: ran.append(1))
    assert torch.allclose(fused(images(3)), expected, atol=1e-4)
    assert ran, "an old graph ran"
    same(original, fused, images(3))
    model = trained(nets.RepVGG())
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(str(graph.graph))
        return graph.forward

    model.compile(backend=backend)
    model(images(3))
    fused = fuse(model, inplace=inplace)
    assert torch.allclose(fused(images(3)), expected, atol=1e-4)
    assert graphs[0].count("batch_norm") > 0
    assert [graph.count("batch_norm") for graph in graphs[1:]] == ([0] if inplace else [])


@pytest.mark.filterwarnings("ignore")  # torch.distributed's own
def test_ddp(tmp_path: object) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(trained(nets.RepVGG()))
        for fused in (fuse(model), fuse(model, inplace=True)):
            assert type(fused) is nn.parallel.DistributedDataParallel
            for _ in range(2):  # gradients flow and the reducer knows the new parameters
                fused(images(3)).sum().backward()
            assert fused.module.stage0.rbr_reparam.weight.grad is not None
            assert convolutions(fused) == 5
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = trained(nets.RepVGG()).to(dtype)
    fused = fuse(model)
    assert {p.dtype for p in fused.parameters()} == {dtype}
    assert fused(images(3).to(dtype)).dtype == dtype
    same(model, fused, images(3))


def test_channels_last_and_requires_grad_are_kept() -> None:
    model = trained(nets.RepVGG()).to(memory_format=torch.channels_last)
    model.stage1[0].requires_grad_(False)
    fused = fuse(model)
    weight = fused.stage0.rbr_reparam.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    assert weight.requires_grad
    assert not fused.stage1[0].rbr_reparam.weight.requires_grad
    plain = fuse(trained(nets.RepVGG()))
    assert plain.stage0.rbr_reparam.weight.is_contiguous()


def test_the_fused_model_travels(tmp_path: object) -> None:
    fused = fuse(trained(nn.Sequential(RepVGGBlock(4, 4, se=True), nets.RepVGGDW(4))))
    expected = fused(images())
    for model in (pickle.loads(pickle.dumps(fused)), copy.deepcopy(fused), fuse(fused)):
        assert torch.equal(model(images()), expected)
    assert torch.allclose(torch.fx.symbolic_trace(fused)(images()), expected)


def test_nothing_to_fuse_is_no_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    fusion = fuse_modules(model.train())
    assert not fusion.fused
    assert not fusion.left
    assert str(fusion).startswith("0 blocks fused, 0 left\nno known block found")
    with pytest.warns(UserWarning, match="no known block found"):
        assert type(fuse(nn.ReLU())) is nn.ReLU


def test_a_block_described_by_the_user() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.big, self.small = nets.conv_norm(4, 4, 5), nets.conv_norm(4, 4, 3)
            self.skip, self.gelu = nn.BatchNorm2d(4), nn.GELU()

        def forward(self, x: Tensor) -> Tensor:
            return self.gelu(self.big(x) + self.small(x) + self.skip(x))

    mine = BlockFamily(
        "mine", "Mine", (conv_bn("big"), conv_bn("small"), norm("skip")), "conv", tail=("gelu",)
    )
    model = trained(nn.Sequential(Mine(), RepVGGBlock(4, 4)))
    assert len(fuse_modules(model).fused) == 1
    fusion = fuse_modules(model, families=[mine])
    assert [one.family for one in fusion.fused] == ["mine", "repvgg"]
    assert list(fusion.model[0].state_dict()) == ["conv.weight", "conv.bias"]
    same(model, fusion.model, images())


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, repvgg_deploy; sys.exit(bool({'torch', 'onnx', 'numpy'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in repvgg_deploy.__all__:
        assert name in dir(repvgg_deploy)
        assert getattr(repvgg_deploy, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        repvgg_deploy.nonsense  # noqa: B018


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 2, 3]), st.integers(1, 3), st.sampled_from([1, 3, 5, 7]),
    st.integers(1, 2), st.integers(1, 3), st.integers(0, 4), st.booleans(), st.integers(0, 999),
)  # fmt: skip
def test_random_blocks(
    groups: int, width: int, kernel: int, stride: int, dilation: int, count: int, keep: bool,
    seed: int,
) -> None:  # fmt: skip
    cin = groups * width
    out = cin if keep else 2 * cin
    if count == 0 and (stride, out) != (1, cin):
        count = 1
    block = nets.MobileOneBlock(cin, out, kernel, count, stride, groups)
    for branch in block.rbr_conv:
        branch.conv.dilation = (dilation, dilation)
        branch.conv.padding = (dilation * (kernel // 2),) * 2
    model = trained(nn.Sequential(block), seed)
    fusion = fuse_modules(model)
    assert len(fusion.fused) == 1, fusion
    x = torch.randn(2, cin, 9, 8, generator=torch.Generator().manual_seed(seed))
    exact = copy.deepcopy(model).double()(x.double()).detach()
    assert torch.allclose(fusion.model(x).double(), exact, atol=2e-4 * float(exact.abs().max() + 1))
