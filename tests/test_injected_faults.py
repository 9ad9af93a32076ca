"""The measure of every proof: faults put into what it judges, all caught, and no right one refused.

The sidecar of each faulty file is made anew, so that no hash gives it away.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import Tensor, nn

from repvgg_deploy import fuse, fuse_modules, prove_modules
from repvgg_deploy.errors import CheckFailed
from repvgg_deploy.export.graph import BF16_OPSET, DEFAULT_OPSET, to_onnx
from repvgg_deploy.files import sha256_file
from repvgg_deploy.models.build import build
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.reparam import state_dict
from repvgg_deploy.reparam.find import find_blocks
from repvgg_deploy.reparam.graph import fuse_graph, rewrite
from repvgg_deploy.reparam.linear import LinearConv
from repvgg_deploy.reparam.modules import fuse as module_fuse
from repvgg_deploy.reparam.modules.fold import Folded
from repvgg_deploy.reparam.state_dict import fuse_in_place
from repvgg_deploy.sidecar import sidecar_path
from repvgg_deploy.steps.fuse import fuse_checkpoint
from repvgg_deploy.steps.fuse_onnx import fuse_onnx
from repvgg_deploy.steps.verify import verify_pair
from repvgg_deploy.steps.weights import BY_ITSELF
from repvgg_deploy.workspace import ModelFolder, Workspace

from . import module_nets as nets
from .conftest import Cli
from .faults import FAULTS, QUIET, hostile, module_faults
from .helpers import tiny_spec
from .int8 import write_graph

State = dict[str, Tensor]
TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
#: By front end: faults injected, faults caught, right ones judged, right ones passed.
COUNTS: Counter[tuple[str, str]] = Counter()

#: The block that the faults are put into, in the middle of the network.
BLOCK = "stage3.0"


def judged(front: str, fault: str | None, passed: bool, why: object = "") -> None:
    """Count a verdict, and see that it is right; ``fault`` None: there was none."""
    COUNTS[front, "faults" if fault else "right ones"] += 1
    COUNTS[front, "caught" if fault and not passed else "passed" if passed else "refused"] += 1
    assert passed is (fault is None), (front, fault, why)


@pytest.fixture(scope="module", autouse=True)
def counts() -> Iterator[None]:
    """Say what was measured (pytest -s)."""
    COUNTS.clear()
    yield
    for (front, what), count in sorted(COUNTS.items()):
        print(f"\n{front}: {count} {what}", end="")


def with_sidecar_of(right: Path, wrong: Path) -> Path:
    """Give ``wrong`` the sidecar of ``right``, as if it had been made in its place."""
    record = json.loads(sidecar_path(right).read_text())
    record |= {"file": wrong.name, "sha256": sha256_file(wrong)}
    sidecar_path(wrong).write_text(json.dumps(record))
    return wrong


# State dicts: training checkpoint, fused weights and the ONNX models exported from them.


def training_state(seed: int = 0) -> State:
    torch.manual_seed(seed)
    return dict(hostile(RepVGG(tiny_spec(), "train"), seed).state_dict())


def fused_state(state: State, eps: float = 1e-5) -> State:
    fused = dict(state)
    fuse_in_place(fused, find_blocks(state).blocks, eps)
    return {key: tensor.contiguous() for key, tensor in fused.items()}


def without_branch(state: State) -> State:
    """The 1x1 branch of the block adds nothing, but to the identity of its shape."""
    leaves = [f"{BLOCK}.rbr_1x1.bn.{leaf}" for leaf in ("weight", "bias", "running_mean")]
    return {key: t * 0 if key in leaves else t for key, t in state.items()}


def faulty_states(state: State, dtype: torch.dtype) -> Iterator[tuple[str | None, State]]:
    """The fused network, right (None) and with each fault."""
    right = fused_state(state)
    yield None, right
    yield "branch dropped", fused_state(without_branch(state))
    wrong_eps = fused_state(state, eps=1e-3)
    yield "eps 1e-3", wrong_eps
    keys = [f"{BLOCK}.rbr_reparam.{leaf}" for leaf in ("weight", "bias")]
    one_block = right | {key: wrong_eps[key] for key in keys}
    yield "eps 1e-3 in one block", one_block
    for name, fault in FAULTS.items():
        changed = fault(right[keys[0]], right[keys[1]], dtype)
        yield name, right | {k: t.contiguous() for k, t in zip(keys, changed, strict=True)}
    if "linear.weight" in right:
        linear = right["linear.weight"].clone()
        row = linear[0]
        row[int((((row * 1.001).to(dtype) != row.to(dtype)) * row.abs()).argmax())] *= 1.001
        yield "one weight of the classifier off by 0.1 %", right | {"linear.weight": linear}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole network's checkpoint and one of blocks alone, both fused."""
    folder = tmp_path_factory.mktemp("made")
    state = training_state()
    torch.save(state, folder / "whole.pth")
    torch.save({k: t for k, t in state.items() if "linear" not in k}, folder / "blocks.pth")
    for name in ("whole", "blocks"):
        fuse_checkpoint(folder / f"{name}.pth", Workspace(folder / "engines"), reading=BY_ITSELF)
    return folder


@pytest.mark.parametrize("name", ["whole", "blocks"])
@pytest.mark.parametrize("known", [True, False])
def test_faults_in_fused_weights_are_caught(
    name: str, known: bool, made: Path, tmp_path: Path
) -> None:
    """``known``: the sidecar says that the file was made from this very checkpoint."""
    right = made / "engines" / name / "fused.safetensors"
    state = torch.load(made / f"{name}.pth")
    for number, (fault, faulty) in enumerate(faulty_states(state, torch.float32)):
        candidate = tmp_path / f"{number}.safetensors"
        save_file(faulty, candidate)
        if known:
            with_sidecar_of(right, candidate)
        verdict = verify_pair(made / f"{name}.pth", candidate, "cpu")
        assert verdict.weights is not None
        assert verdict.weights.exact is (fault is None)
        judged("state dict", fault, not verdict.failures, verdict.failures)


EXPORTED = [
    *((precision, opset) for precision in ("fp32", "fp16") for opset in (9, DEFAULT_OPSET, 22)),
    ("bf16", BF16_OPSET),
]


@pytest.mark.parametrize(("precision", "opset"), EXPORTED)
@pytest.mark.parametrize("reference", ["checkpoint", "fused"])
def test_faults_in_exported_models_are_caught(
    precision: str, opset: int, reference: str, made: Path, tmp_path: Path
) -> None:
    named = made / ("whole.pth" if reference == "checkpoint" else "engines/whole/fused.safetensors")
    state = torch.load(made / "whole.pth")
    for number, (fault, faulty) in enumerate(faulty_states(state, TORCH[precision])):
        network = build(faulty, tiny_spec(), "deploy")
        model = to_onnx(network, (32, 32), precision=precision, opset=opset)
        candidate = tmp_path / f"{number}.onnx"
        onnx.save(model, candidate)
        verdict = verify_pair(named, candidate, "cpu")
        assert verdict.weights is not None
        assert verdict.weights.exact is (fault is None)
        front = f"exported {precision}"
        judged(front, fault, not verdict.failures, verdict.failures)


# ONNX graphs, fused as graphs.

OPSETS = range(7, onnx.defs.onnx_opset_version() + 1)
ELEMENT = {"fp32": (TensorProto.FLOAT, np.float32), "fp16": (TensorProto.FLOAT16, np.float16)}


def runnable(opset: int) -> bool:
    """Whether this ONNX Runtime has the opset."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])], "g",
            [helper.make_tensor_value_info("x", 1, [1])],
            [helper.make_tensor_value_info("y", 1, [1])],
        ),
        opset_imports=[helper.make_opsetid("", opset)], ir_version=8,
    )  # fmt: skip
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def source_graph(opset: int, precision: str, norms: bool) -> ModelProto:
    """Two blocks of three branches. Without ``norms`` they are as an exporter folds them: biased
    convolutions, and the identity itself."""
    element, dtype = ELEMENT[precision]
    torch.manual_seed(1)
    blocks = hostile(nn.ModuleList(_block() for _ in range(2)), 1)
    nodes, weights = [], []

    def hold(name: str, tensor: Tensor) -> str:
        weights.append(numpy_helper.from_array(tensor.detach().numpy().astype(dtype), name))
        return name

    def norm(x: str, name: str, bn: nn.BatchNorm2d) -> str:
        leaves = ("weight", "bias", "running_mean", "running_var")
        held = [hold(f"{name}.{leaf}", getattr(bn, leaf)) for leaf in leaves]
        nodes.append(helper.make_node("BatchNormalization", [x, *held], [name], epsilon=bn.eps))
        return name

    x = "x"
    for number, block in enumerate(blocks):
        branches = []
        for conv, bn in ((block["three"], block["bn3"]), (block["one"], block["bn1"])):
            size = conv.kernel_size[0]
            name = f"{number}.conv{size}"
            inputs = [x, hold(f"{name}.weight", conv.weight)]
            if not norms:
                scale = bn.weight / (bn.running_var + bn.eps).sqrt()
                weights[-1].CopyFrom(
                    numpy_helper.from_array(
                        (conv.weight * scale[:, None, None, None]).detach().numpy().astype(dtype),
                        inputs[1],
                    )
                )
                inputs.append(hold(f"{name}.bias", bn.bias - bn.running_mean * scale))
            pads = [size // 2] * 4
            nodes.append(
                helper.make_node("Conv", inputs, [name], kernel_shape=[size] * 2, pads=pads)
            )
            branches.append(norm(name, f"{name}.bn", bn) if norms else name)
        branches.append(norm(x, f"{number}.identity", block["bn0"]) if norms else x)
        nodes.append(helper.make_node("Add", branches[:2], [f"{number}.sum"]))
        nodes.append(helper.make_node("Add", [f"{number}.sum", branches[2]], [f"{number}.end"]))
        nodes.append(helper.make_node("Relu", [f"{number}.end"], [f"{number}.relu"]))
        x = f"{number}.relu"
    shape = ["n", 4, 8, 8]
    inputs, outputs = ([helper.make_tensor_value_info(name, element, shape)] for name in ("x", x))
    graph = helper.make_graph(nodes, "source", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", opset)]
    ir_version = max(4, helper.find_min_ir_version_for(opsets))
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def _block() -> nn.ModuleDict:
    parts = {"three": nn.Conv2d(4, 4, 3, bias=False), "one": nn.Conv2d(4, 4, 1, bias=False)}
    return nn.ModuleDict(parts | {f"bn{n}": nn.BatchNorm2d(4) for n in (3, 1, 0)})


def set_tensor(model: ModelProto, name: str, values: np.ndarray) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    dtype = numpy_helper.to_array(tensor).dtype
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values.astype(dtype)), name))


def get_tensor(model: ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def graph_without_branch(source: ModelProto) -> ModelProto:
    wrong = copy.deepcopy(source)
    for name in ("1.conv1.weight", "1.conv1.bias", "1.conv1.bn.bias", "1.conv1.bn.running_mean"):
        if any(tensor.name == name for tensor in source.graph.initializer):
            set_tensor(wrong, name, get_tensor(source, name) * 0)
    return wrong


def graph_with_eps(source: ModelProto) -> ModelProto:
    wrong = copy.deepcopy(source)
    for node in wrong.graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 1e-3
    return wrong


def faulty_graphs(
    source: ModelProto, right: ModelProto, norms: bool, dtype: torch.dtype
) -> Iterator[tuple[str | None, ModelProto]]:
    yield None, right
    yield "branch dropped", fuse_graph(graph_without_branch(source)).model
    if norms:
        yield "eps 1e-3", fuse_graph(graph_with_eps(source)).model
    weight, bias = (get_tensor(right, f"1.end.{leaf}") for leaf in ("weight", "bias"))
    for name, fault in FAULTS.items():
        given = (torch.from_numpy(a.astype(np.float32)) for a in (weight, bias))
        wrong = copy.deepcopy(right)
        for leaf, values in zip(("weight", "bias"), fault(*given, dtype), strict=True):
            set_tensor(wrong, f"1.end.{leaf}", values.numpy())
        yield name, wrong


@pytest.mark.parametrize("norms", [True, False], ids=["norms", "folded"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("opset", OPSETS)
def test_faults_in_fused_graphs_are_caught(
    opset: int, precision: str, norms: bool, tmp_path: Path
) -> None:
    if not runnable(opset):
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} does not run opset {opset}")
    source, right = tmp_path / "source.onnx", tmp_path / "right.onnx"
    model = source_graph(opset, precision, norms)
    onnx.save(model, source)
    assert len(fuse_onnx(source, right).fused) == 2
    for number, (fault, wrong) in enumerate(
        faulty_graphs(model, onnx.load(right), norms, TORCH[precision])
    ):
        for known in (True, False):
            candidate = tmp_path / f"{number}-{known}.onnx"
            onnx.save(wrong, candidate)
            if known:
                with_sidecar_of(right, candidate)
            verdict = verify_pair(source, candidate)
            assert verdict.weights is not None
            assert verdict.weights.exact is (fault is None)
            judged(f"graph {precision}", fault, not verdict.failures, verdict.failures)


# Torch modules.


def trained_model(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(2)
    return hostile(nets.RepVGG(8), 2).to(dtype)


def no_identity(block: nets.RepVGGBlock) -> None:
    block.rbr_identity = None


def large_eps(block: nets.RepVGGBlock) -> None:
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3


def faulty_modules(model: nn.Module, dtype: torch.dtype) -> Iterator[tuple[str | None, nn.Module]]:
    right = fuse(model)
    yield None, right
    for name, change in (("branch dropped", no_identity), ("eps 1e-3", large_eps)):
        other = copy.deepcopy(model)
        for module in other.modules():
            if isinstance(module, nets.RepVGGBlock):
                change(module)
        yield name, fuse(other)
    for name, fault in module_faults(dtype).items():
        wrong = copy.deepcopy(right)
        conv = wrong.stage1[0].rbr_reparam
        pair = fault(conv.weight.detach().float(), conv.bias.detach().float(), dtype)
        conv.weight.data, conv.bias.data = (tensor.to(dtype) for tensor in pair)
        yield name, wrong


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_faults_in_fused_modules_are_caught(precision: str) -> None:
    dtype = TORCH[precision]
    model = trained_model(dtype)
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    for fault, fused in faulty_modules(model, dtype):
        proof = prove_modules(model, fused, x)
        assert proof.weights.exact is (fault is None)
        judged(f"module {precision}", fault, proof.passed, proof.failures)


# int8, which has bounds on what is lost, and equality of everything else.


def without_relu(model: ModelProto) -> None:
    """The second Relu passes everything on."""
    relu = [node for node in model.graph.node if node.op_type == "Relu"][1]
    relu.op_type = "Identity"


def rewired(model: ModelProto) -> None:
    """A layer reads what the one before it reads."""
    first, second = [node for node in model.graph.node if node.op_type == "Conv"][1:3]
    second.input[0] = first.input[0]


def foreign_weight(model: ModelProto) -> None:
    """The head reads another weight than the one of its name."""
    head = next(node for node in model.graph.node if node.op_type == "Gemm")
    held = numpy_helper.to_array(
        next(t for t in model.graph.initializer if t.name == head.input[2])
    )
    model.graph.initializer.append(numpy_helper.from_array(held * 0, "other"))
    head.input[2] = "other"


@pytest.mark.parametrize("front", ["int8", "int8 graph"])
@pytest.mark.parametrize("fault", [None, without_relu, rewired, foreign_weight])
def test_faults_between_the_layers_of_int8_models_are_caught(
    front: str, fault: Callable[[ModelProto], None] | None, made: Path, tmp_path: Path
) -> None:
    folder = ModelFolder(tmp_path / "model")
    folder.path.mkdir()
    source = folder.fused if front == "int8" else folder.path / "net.onnx"
    fused = fused_state(torch.load(made / "whole.pth"))
    save_file(fused, folder.fused)
    network = to_onnx(build(fused, tiny_spec(), "deploy"), (32, 32))
    onnx.save(network, folder.path / "net.onnx")
    path = write_graph(network, source, folder)
    if fault is not None:
        model = onnx.load(path)
        fault(model)
        onnx.save(model, path)
        with_sidecar_of(path, path)
    verdict = verify_pair(source, path, "cpu")
    judged(front, fault and fault.__name__, not verdict.failures, verdict.failures)


# The steps themselves, with a fault in the algebra.


def zeroed_quiet_channel(fold: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    def wrong(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        weight, bias = fold(*arguments, **options)
        weight[QUIET] *= 1.001
        return weight, bias

    return wrong


def test_fuse_refuses_what_its_own_fold_gets_wrong(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where fold_block is right, but what comes out of fuse_in_place is not."""
    monkeypatch.setattr(state_dict, "fold_block", zeroed_quiet_channel(state_dict.fold_block))
    for name in ("whole", "blocks"):
        workspace = Workspace(tmp_path / "engines")
        with pytest.raises(CheckFailed, match="nothing was written"):
            fuse_checkpoint(made / f"{name}.pth", workspace, reading=BY_ITSELF)
        judged("fuse itself", "fold", passed=False)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_graph_fuse_refuses_what_its_own_fold_gets_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(plan: Any, region: Any) -> LinearConv:
        conv = fold(plan, region)
        conv.kernel[QUIET] *= 1.001
        return conv

    fold = rewrite._fold
    monkeypatch.setattr(rewrite, "_fold", wrong)
    onnx.save(source_graph(17, "fp32", norms=True), tmp_path / "source.onnx")
    with pytest.raises(CheckFailed, match="is not faithful"):
        fuse_onnx(tmp_path / "source.onnx", tmp_path / "fused.onnx")
    judged("fuse itself", "fold", passed=False)
    assert not (tmp_path / "fused.onnx").exists()


def test_module_fuse_leaves_what_its_own_fold_gets_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(candidate: Any) -> Folded:
        folded = fold(candidate)
        folded.conv.kernel[QUIET % folded.conv.out_channels] *= 1.001
        return folded

    fold = module_fuse.fold_candidate
    monkeypatch.setattr(module_fuse, "fold_candidate", wrong)
    fusion = fuse_modules(trained_model(torch.float32))
    judged("fuse itself", "fold", passed=bool(fusion.fused))
    assert all("does something else" in left.reason for left in fusion.left)


# Where another tool made the candidate, outputs alone decide.


@pytest.mark.parametrize("norms", [True, False], ids=["norms", "folded"])
def test_faults_in_graphs_of_other_tools_are_caught(norms: bool, tmp_path: Path) -> None:
    source, right = tmp_path / "source.onnx", tmp_path / "right.onnx"
    model = source_graph(17, "fp32", norms)
    onnx.save(model, source)
    fuse_onnx(source, right)
    for fault, wrong in faulty_graphs(model, onnx.load(right), norms, torch.float32):
        for place, node in enumerate(wrong.graph.node):
            node.name = f"theirs/{place}"
        onnx.save(wrong, tmp_path / "theirs.onnx")
        verdict = verify_pair(source, tmp_path / "theirs.onnx")
        assert verdict.weights is not None
        assert not verdict.weights.exact
        assert "outputs alone" in verdict.weights.reason
        judged("graph fp32 of another tool", fault, not verdict.failures, verdict.failures)


def test_the_command_says_that_weights_were_compared(cli: Cli, made: Path, tmp_path: Path) -> None:
    right = made / "engines/whole/fused.safetensors"
    result = cli("verify", made / "whole.pth", right, "--json")
    assert result.code == 0, result.err
    assert "compared exactly" in result.err
    assert json.loads(result.out)[0]["weights"]["exact"] is True
    states = dict(faulty_states(torch.load(made / "whole.pth"), torch.float32))
    save_file(states["one weight off by 0.1 %"], tmp_path / "wrong.safetensors")
    result = cli("verify", made / "whole.pth", "wrong.safetensors", "--json")
    assert result.code == 3
    found = json.loads(result.out)[0]["weights"]
    assert found["exact"] is False
    assert "stage3.0.rbr_reparam.weight: 1 of" in found["failures"][0]
