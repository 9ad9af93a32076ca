"""--truth and --strides: what a file cannot say, against networks written here in plain torch."""

from __future__ import annotations

import json
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from repvgg_deploy.equivalence.truth import Candidate, hold_truth
from repvgg_deploy.equivalence.truth_file import Truth, read_truth
from repvgg_deploy.errors import CheckFailed, UserError
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.models.infer import NotPlain, infer
from repvgg_deploy.models.spec import ArchSpec
from repvgg_deploy.steps.weights import Reading, read_weights

from .conftest import Cli
from .helpers import tiny_spec, training_state
from .module_nets import trained

CIFAR = "1,1,2,2,2"


class Names:
    """What a code base calls the parts of a block and of a network."""

    def __init__(
        self, dense: str, point: str, norm: str, identity: str, head: str, stages: list[str]
    ) -> None:
        self.dense, self.point, self.norm, self.identity = dense, point, norm, identity
        self.head, self.stages = head, stages


OFFICIAL = Names(
    "rbr_dense", "rbr_1x1", "bn", "rbr_identity", "linear",
    ["stage0", "stage1.0", "stage1.1", "stage2.0", "stage3.0", "stage4.0"],
)  # fmt: skip
LAYOUTS = {
    "official": OFFICIAL,
    "qarepvgg": OFFICIAL,
    "repvggplus": Names(
        "rbr_dense", "rbr_1x1", "bn", "rbr_identity", "linear",
        [
            "stage0", "stage1.blocks.0", "stage1.blocks.1", "stage2.blocks.0",
            "stage3_first.blocks.0", "stage3_second.blocks.0", "stage4.blocks.0",
        ],
    ),
    "timm": Names(
        "conv_kxk", "conv_1x1", "bn", "identity", "head.fc",
        ["stem", "stages.0.0", "stages.0.1", "stages.1.0", "stages.2.0", "stages.3.0"],
    ),
    "mmpretrain": Names(
        "branch_3x3", "branch_1x1", "norm", "branch_norm", "head.fc",
        [
            "backbone.stem", "backbone.stage_1.0", "backbone.stage_1.1", "backbone.stage_2.0",
            "backbone.stage_3.0", "backbone.stage_4.0",
        ],
    ),
}  # fmt: skip


class Block(nn.Module):
    """3x3, 1x1 and identity; ``outer``: as QARepVGG has it."""

    def __init__(self, names: Names, cin: int, cout: int, stride: int, outer: bool) -> None:
        super().__init__()
        self.names, self.passes = names, cin == cout and stride == 1
        self.outer = outer
        conv = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        bn = nn.BatchNorm2d(cout)
        self.add_module(names.dense, nn.Sequential(OrderedDict({"conv": conv, names.norm: bn})))
        point: nn.Module = nn.Conv2d(cin, cout, 1, stride, 0, bias=False)
        if not outer:
            point = nn.Sequential(OrderedDict({"conv": point, names.norm: nn.BatchNorm2d(cout)}))
        self.add_module(names.point, point)
        if outer:
            self.bn = nn.BatchNorm2d(cout)
        elif self.passes:
            self.add_module(names.identity, nn.BatchNorm2d(cin))

    def forward(self, x: Tensor) -> Tensor:
        total = self.get_submodule(self.names.dense)(x) + self.get_submodule(self.names.point)(x)
        if self.passes:
            total = total + (x if self.outer else self.get_submodule(self.names.identity)(x))
        return torch.relu(self.bn(total) if self.outer else total)


class Net(nn.Module):
    """Stage 1 changes the channels, so the file does not show that it starts at stride 1."""

    def __init__(self, layout: str, strides: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        names, cin = LAYOUTS[layout], 3
        steps = {"1.1": 1, "0.1": 1, "stage1.blocks.1": 1, "stage3_second.blocks.0": 1}
        rest, self.paths = list(strides), names.stages
        each = list(widths)
        for path in names.stages:
            inner = any(path.endswith(end) for end in steps)
            stride, cout = (1, cin) if inner else (rest.pop(0), each.pop(0))
            _attach(self, path, Block(names, cin, cout, stride, layout == "qarepvgg"))
            cin = cout
        self.classifier = names.head
        _attach(self, names.head, nn.Linear(cin, 5))

    def forward(self, x: Tensor) -> Tensor:
        for path in self.paths:
            x = self.get_submodule(path)(x)
        return self.get_submodule(self.classifier)(x.mean((2, 3)))  # type: ignore[no-any-return]


def _attach(root: nn.Module, path: str, module: nn.Module) -> None:
    *parents, leaf = path.split(".")
    for name in parents:
        if name not in dict(root.named_children()):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(leaf, module)


def record(
    layout: str = "official",
    strides: tuple[int, ...] = (1, 1, 2, 2, 2),
    widths: tuple[int, ...] = (6, 8, 10, 12, 16),
    size: int = 16,
) -> Net:
    """net.pth and truth.npz, as docs/pipeline.md says."""
    torch.manual_seed(0)
    model = trained(Net(layout, strides, widths))
    assert isinstance(model, Net)
    torch.save(model.state_dict(), "net.pth")
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        np.savez("truth.npz", x=x.numpy(), y=model.eval()(x).numpy())
    return model


def sidecar(name: str = "fused.safetensors") -> dict[str, Any]:
    data: dict[str, Any] = json.loads(Path(f"engines/net/{name}.json").read_text())
    return data


def left() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in Path().rglob("*") if p.is_file()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_strides_are_caught_and_can_be_given(cli: Cli, layout: str) -> None:
    record(layout)
    before = left()
    wrong = cli("fuse", "net.pth", "--truth", "truth.npz")
    assert wrong.code == 3
    assert "sample" in wrong.err
    assert "--strides" in wrong.err
    assert left() == before
    right = cli("fuse", "net.pth", "--strides", CIFAR, "--truth", "truth.npz")
    assert right.code == 0, right.err
    held = sidecar()
    assert held["truth"]["samples"] == 3
    assert held["truth"]["error"] < 1e-5
    assert held["assumptions"]["strides"] == [1, 1, 2, 2, 2]
    assert held["assumptions"]["strides_origin"] == "given"
    exported = cli("export", "--onnx", "--size", "16", "--truth", "truth.npz")
    assert exported.code == 0, exported.err
    assert "strides 1-1-2-2-2" in exported.err
    strides = [
        attribute.ints[0]
        for node in onnx.load("engines/net/fp32.onnx").graph.node
        for attribute in node.attribute
        if attribute.name == "strides"
    ]
    assert strides == [1, 1, 1, 2, 2, *([1] if layout == "repvggplus" else []), 2]


def test_without_truth_it_says_that_nothing_was_compared(cli: Cli) -> None:
    record()
    result = cli("fuse", "net.pth")
    assert result.code == 0
    assert "not compared with your network" in result.err
    assert sidecar()["truth"] is None
    assert sidecar()["assumptions"]["strides_origin"] == "assumed"
    assert "assumed, since the file does not say: batch-norm eps 1e-05, strides 2-2-2-2-2, " in (
        result.err
    )


def test_truth_stands_without_the_proof_and_for_fused_checkpoints(cli: Cli) -> None:
    record()
    truth = ["--truth", "truth.npz"]
    assert cli("fuse", "net.pth", "--no-verify", *truth).code == 3
    result = cli("fuse", "net.pth", "--no-verify", "--strides", CIFAR, *truth, "--pth")
    assert result.code == 0, result.err
    assert sidecar()["truth"]["error"] < 1e-5
    assert cli("fuse", "engines/net/fused.pth", "--name", "again", *truth).code == 3
    assert not Path("engines/again").exists()
    again = cli("fuse", "engines/net/fused.pth", "--name", "again", "--strides", CIFAR, *truth)
    assert again.code == 0, again.err


def test_every_later_step_keeps_the_strides(cli: Cli) -> None:
    record()
    assert cli("fuse", "net.pth", "--strides", CIFAR).code == 0
    for precision in (["--onnx", "--fp16"], ["--onnx"]):
        assert cli("export", *precision, "--size", "16", "--truth", "truth.npz").code == 0
    assert sidecar("fp16.onnx")["truth"]["precision"] == "fp16"
    images = np.random.default_rng(0).normal(size=(24, 3, 16, 16)).astype(np.float32)
    np.savez("x.npz", x=images)
    quantized = cli(
        "quantize", "--calib", "x.npz", "--method", "quick", "--samples", "12",
        "--truth", "truth.npz",
    )  # fmt: skip
    assert quantized.code == 0, quantized.err
    assert sidecar("int8.onnx")["truth"]["limit"] is None
    assert sidecar("int8.onnx")["truth"]["sqnr_db"] > 15
    verified = cli("verify", "--truth", "truth.npz", "--json")
    assert verified.code == 0, verified.err
    checks = json.loads(verified.out)["checks"]
    held = {check["file"]: check["passed"] for check in checks if check["kind"] == "truth"}
    assert held == dict.fromkeys(["fused.safetensors", "fp16.onnx", "fp32.onnx", "int8.onnx"], True)
    pair = cli(
        "verify", "net.pth", "engines/net/fp32.onnx", "--strides", CIFAR, "--truth", "truth.npz",
        "--json",
    )  # fmt: skip
    assert pair.code == 0, pair.err
    assert len(json.loads(pair.out)[0]["truth"]) == 2
    otherwise = cli("verify", "net.pth", "engines/net/fused.safetensors")
    assert otherwise.code == 1
    assert "give those of the network with --strides" in otherwise.err
    report = cli("report", "--json")
    if report.code == 0:  # the extra is installed
        assert "Compared with recorded outputs" in Path("engines/net/report.md").read_text()
        lines = [one["line"] for one in json.loads(report.out)["commands"]]
        assert any(f"--strides {CIFAR}" in line for line in lines)


def test_a_wrong_candidate_of_a_right_reference_fails(cli: Cli) -> None:
    record()
    assert cli("fuse", "net.pth").code == 0  # with the wrong strides
    before = left()
    for command in (
        ["export", "--onnx", "--size", "16"],
        ["export", "--onnx", "--fp16", "--size", "16"],
        ["verify"],
        ["verify", "net.pth", "engines/net/fused.safetensors"],
    ):
        assert cli(*command, "--truth", "truth.npz").code == 3
    np.savez("x.npz", x=np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32))
    quick = ["quantize", "--calib", "x.npz", "--method", "quick", "--samples", "4"]
    assert cli(*quick, "--truth", "truth.npz").code == 3
    Path("x.npz").unlink()
    assert left() == before


def test_the_sidecar_is_the_truth(cli: Cli) -> None:
    record()
    assert cli("fuse", "net.pth", "--strides", CIFAR).code == 0
    fused = Path("engines/net/fused.safetensors")
    assert read_weights(fused).network.spec.strides == (1, 1, 2, 2, 2)
    said = cli("inspect", fused).out
    assert "as an earlier step recorded: strides 1-1-2-2-2" in said
    refused = cli("inspect", fused, "--strides", "2,2,2,2,2")
    assert refused.code == 1
    assert "records 1,1,2,2,2" in refused.err
    copied = Path("copied.safetensors")
    copied.write_bytes(fused.read_bytes())
    assert "assumed, since the file does not say: strides 2-2-2-2-2" in cli("inspect", copied).out
    assert "not the network" in cli("verify", copied, copied, "--truth", "truth.npz").err
    right = cli("verify", copied, fused, "--strides", CIFAR, "--truth", "truth.npz")
    assert right.code == 0, right.err


def test_what_fuse_ruled_out_no_later_step_builds(cli: Cli) -> None:
    record(widths=(8, 8, 10, 12, 16))  # stage 1 keeps the channels: its identity shows stride 1
    fused = cli("fuse", "net.pth")
    assert fused.code == 0
    assert sidecar()["spec"] is None
    assert "--strides 2,1,2,2,2" in sidecar()["not_whole"]
    np.savez("x.npz", x=np.zeros((4, 3, 16, 16), np.float32), y=np.zeros(4, np.int64))
    for command in (
        ["export", "--onnx"],
        ["quantize", "--calib", "x.npz"],
        ["bench", "--runtime", "torch-cpu", "--duration", "0.1"],
        ["bench", "engines/net/fused.safetensors", "--output", "b.json"],
        ["evaluate", "engines/net/fused.safetensors", "--data", "x.npz"],
        [
            "train",
            "--qat",
            "--init",
            "engines/net/fused.safetensors",
            "--data",
            "x.npz",
            "--epochs",
            "1",
        ],
    ):
        result = cli(*command)
        assert result.code == 1, command
        assert "--strides 2,1,2,2,2" in result.err, command
    refused = cli("fuse", "net.pth", "--truth", "truth.npz")
    assert refused.code == 1
    assert "ONNX" in refused.err
    right = cli("fuse", "net.pth", "--strides", CIFAR, "--truth", "truth.npz")
    assert right.code == 0, right.err


def test_a_changed_file_is_not_read_by_its_sidecar(cli: Cli) -> None:
    record()
    assert cli("fuse", "net.pth").code == 0
    fused = Path("engines/net/fused.safetensors")
    save_file({k: v + 1 for k, v in load_file(fused).items()}, fused)
    assert cli("inspect", fused).code == 1
    Path("engines/net/fused.safetensors.json").write_text("{")
    assert "damaged" in cli("inspect", fused).err


@pytest.mark.parametrize(
    ("strides", "said"),
    [
        ("1,2,2,2,2", "--strides 1,1,2,2,2 fits"),  # stage 1 has an identity
        ("1,1,2,1,2", "--strides 1,1,2,2,2 fits"),  # stage 3 keeps the channels and has none
    ],
)
def test_strides_that_the_branches_contradict(cli: Cli, strides: str, said: str) -> None:
    record(widths=(8, 8, 10, 10, 16))
    result = cli("fuse", "net.pth", "--strides", strides)
    assert result.code == 1
    assert said in result.err


@pytest.mark.parametrize("strides", ["1,1,2,2", "0,1,2,2,2", "1,1,2,2,9", "a,1,2,2,2"])
def test_what_is_no_list_of_strides(cli: Cli, strides: str) -> None:
    assert cli("fuse", "net.pth", "--strides", strides).code == 2


def test_the_proposed_strides_fit() -> None:
    state = training_state(tiny_spec(strides=(2, 1, 2, 1, 2)))
    with pytest.raises(NotPlain, match="--strides 2,1,2,1,2"):
        infer(state, 1e-5)
    spec, _ = infer(state, 1e-5, (2, 1, 2, 1, 2))
    assert spec == tiny_spec(strides=(2, 1, 2, 1, 2))
    assert ArchSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_train_records_its_strides(cli: Cli) -> None:
    rng = np.random.default_rng(0)
    np.savez("images.npz", x=rng.normal(size=(16, 3, 16, 16)).astype(np.float32), y=[0, 1] * 8)
    result = cli(
        "train", "--arch", "RepVGG-A0", "--widths", "4,4,4,4,8", "--strides", CIFAR,
        "--data", "images.npz", "--epochs", "1", "--batch", "8", "--out", "run", "--device", "cpu",
        "--workers", "0", "--no-flip", "--random-crop", "none",
    )  # fmt: skip
    assert result.code == 0, result.err
    fused = cli("fuse", "run/last.pth", "--name", "net")
    assert fused.code == 0, fused.err
    assert [b["stride"] for b in sidecar()["spec"]["blocks"]][:2] == [1, 1]
    assert sidecar()["assumptions"]["strides_origin"] == "recorded"
    assert cli("fuse", "run/last.pth", "--strides", "2,1,2,2,2").code == 1


def test_training_for_int8_keeps_the_strides(cli: Cli) -> None:
    record()
    assert cli("fuse", "net.pth", "--strides", CIFAR).code == 0
    images = np.random.default_rng(0).normal(size=(24, 3, 16, 16)).astype(np.float32)
    np.savez("x.npz", x=images, y=np.arange(24) % 5)
    result = cli(
        "train", "--qat", "--init", "engines/net/fused.safetensors", "--data", "x.npz", "--name",
        "net", "--epochs", "1", "--batch", "8", "--device", "cpu", "--workers", "0", "--start",
        "quick", "--no-flip", "--random-crop", "none", "--distill", "--lr", "1e-6",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert cli("verify", "engines/net", "--truth", "truth.npz").code == 0


def save(**arrays: Any) -> None:
    np.savez("bad.npz", **arrays)


def save_one(array: np.ndarray) -> None:
    np.save("one.npy", array)
    Path("one.npy").rename("bad.npz")


def save_header(shape: tuple[int, ...]) -> None:
    content = BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, header)
    with zipfile.ZipFile("bad.npz", "w") as archive:
        archive.writestr("x.npy", content.getvalue())


X, Y = np.ones((2, 3, 16, 16), np.float32), np.ones((2, 5), np.float32)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: None, "no such file"),
        (lambda: Path("bad.npz").write_bytes(b"PK\x03\x04 no"), "not an .npz file"),
        (lambda: save_one(X), "one array"),
        (lambda: save(x=X), "holds the arrays 'x'"),
        (lambda: save(x=X, z=Y), "under these names"),
        (lambda: save(x=X, y=Y, z=Y), "under these names"),
        (lambda: save(x=X, y=np.array([{}, {}], object)), "not an .npz file of plain arrays"),
        (lambda: save(x=X[:0], y=Y[:0]), "no samples"),
        (lambda: save(x=X, y=Y[:, :3]), "has shape (2, 3)"),
        (lambda: save(x=X[:1], y=Y), "has shape (2, 5)"),
        (lambda: save(x=X[:, :1], y=Y), "takes images [N, 3, height, width]"),
        (lambda: save(x=X[:, :, :1, :1], y=Y), "images of one pixel"),
        (lambda: save(x=X, y=Y * np.nan), "NaN"),
        (lambda: save(x=X * np.inf, y=Y), "NaN or infinity"),
        (lambda: save(x=X, y=Y * 0), "zero throughout"),
        (lambda: save(x=X, y=np.array(["a", "b"])), "not numbers"),
        (lambda: save_header((2**46,)), "does not fit into the memory"),
    ],
)  # fmt: skip
def test_truth_that_cannot_be_used(cli: Cli, make: Callable[[], object], said: str) -> None:
    record(strides=(2, 2, 2, 2, 2))
    make()
    result = cli("fuse", "net.pth", "--truth", "bad.npz")
    assert result.code == 1, result.err
    assert said in result.err
    assert not Path("engines").exists()


def test_a_size_that_the_export_is_not_of(cli: Cli) -> None:
    record(strides=(2, 2, 2, 2, 2))
    assert cli("fuse", "net.pth").code == 0
    result = cli("export", "--onnx", "--size", "32", "--truth", "truth.npz")
    assert result.code == 1
    assert "--size 16x16" in result.err
    fixed = ["export", "--onnx", "--size", "16", "--truth", "truth.npz"]
    assert "record a multiple" in cli(*fixed, "--batch", "2").err
    assert cli(*fixed, "--batch", "1").code == 0


def test_a_graph_of_the_users_own(cli: Cli) -> None:
    record()
    network = read_weights(Path("net.pth"), Reading(strides=(1, 1, 2, 2, 2))).network.build()
    onnx.save(to_onnx(network, (16, 16)), "net.onnx")
    with np.load("truth.npz") as held:
        np.savez("named.npz", input=held["x"], logits=held["y"])
        np.savez("wrong.npz", x=held["x"], y=held["y"] * 1.001)
    before = left()
    assert cli("fuse", "net.onnx", "-o", "f.onnx", "--truth", "wrong.npz").code == 3
    assert cli("export", "net.onnx", "--trt", "fp32", "--truth", "wrong.npz").code == 3
    assert left() == before
    for truth in ("truth.npz", "named.npz"):
        result = cli("fuse", "net.onnx", "-o", "f.onnx", "--truth", truth)
        assert result.code == 0, result.err
        assert json.loads(Path("f.onnx.json").read_text())["truth"]["error"] < 1e-5
    assert cli("verify", "net.onnx", "f.onnx", "--truth", "named.npz").code == 0
    assert cli("verify", "net.onnx", "f.onnx", "--truth", "wrong.npz").code == 3


def candidate(precision: str, found: np.ndarray, rounding: float) -> Candidate:
    return Candidate(
        Path("net"), ("a",), ("b",), precision, lambda _: {"b": found}, lambda _: rounding
    )


@pytest.mark.parametrize(
    ("precision", "off", "rounding", "passes"),
    [
        ("fp32", 9e-5, 0.0, True),
        ("fp32", 2e-4, 0.0, False),
        ("fp32", 2e-4, 3e-5, True),  # eight times its own rounding
        ("fp32", 3e-4, 3e-5, False),
        ("fp32", 0.01, 0.5, False),  # nothing of use rounds by half
        ("fp16", 0.05, 0.008, True),
        ("fp16", 0.09, 0.5, False),
        ("bf16", 0.3, 0.04, True),
        ("int8", 0.1, 0.0, True),  # 20 dB
        ("int8", 0.2, 0.0, False),  # 14 dB
        ("fp32", np.nan, 1.0, False),
        ("int8", np.inf, 1.0, False),
    ],
)
def test_the_bound(precision: str, off: float, rounding: float, passes: bool) -> None:
    recorded = np.array([[1.0, 0.0], [3.0, 4.0], [-4.0, -4.0]])
    found = recorded.copy()
    found[1, 0] += 5 * off
    if precision == "int8":
        found[0, 0] += off
        found[2, 0] += 32**0.5 * off
    truth = Truth(Path("t.npz"), "0" * 64, {"x": np.zeros((3, 1)), "y": recorded})
    if passes:
        held = hold_truth(truth, candidate(precision, found, rounding))
        assert held.error == pytest.approx(off)
        assert held.worst_sample in (0, 1, 2)
    else:
        with pytest.raises(CheckFailed, match="in sample"):
            hold_truth(truth, candidate(precision, found, rounding))


def test_a_quiet_sample_counts_by_itself() -> None:
    """An error that is small beside the others' outputs is not small in a quiet sample."""
    recorded = np.array([[1000.0, 0.0], [1.0, 0.0]])
    truth = Truth(Path("t.npz"), "0" * 64, {"x": np.zeros((2, 1)), "y": recorded})
    with pytest.raises(CheckFailed, match="sample 1"):
        hold_truth(truth, candidate("fp32", recorded + np.array([[0, 0], [0, 0.001]]), 0.0))


def test_nothing_in_it_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    np.savez(path, x=X, y=np.array([print], object))
    with pytest.raises(UserError, match="plain arrays"):
        read_truth(path)


def test_an_offset_that_all_samples_share_hides_no_error() -> None:
    varying = np.array([[1.0, 0.0], [3.0, 4.0], [-4.0, -4.0]])
    recorded = varying + 1000
    truth = Truth(Path("t.npz"), "0" * 64, {"x": np.zeros((3, 1)), "y": recorded})
    with pytest.raises(CheckFailed, match="in sample"):
        hold_truth(truth, candidate("fp32", varying * 1.01 + 1000, 0.0))
    assert hold_truth(truth, candidate("fp32", recorded + 1e-5, 0.0)).error < 1e-4


def test_samples_that_hardly_differ() -> None:
    recorded = np.array([[1.0, 2.0], [1.0, 2.0001]])
    truth = Truth(Path("t.npz"), "0" * 64, {"x": np.zeros((2, 1)), "y": recorded})
    with pytest.raises(UserError, match="record inputs that differ"):
        hold_truth(truth, candidate("fp32", recorded, 0.0))
