"""fuse on the command line: ONNX models, the hub, and options that belong to the other kind."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from .at_work import PATIENCE, stopped_at
from .conftest import Cli
from .graphs import graph, operators
from .helpers import GOLDEN
from .hub_standin import COMMIT, REPO, StandIn, pointed_at, serve

MODEL = GOLDEN / "official_plain.bn.onnx"


@pytest.fixture
def hub(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StandIn]:
    pytest.importorskip("huggingface_hub", reason="needs the extra hub")
    cache_folder = tmp_path_factory.mktemp("hub")
    with serve(StandIn()) as standin, pointed_at(standin.url, cache_folder, monkeypatch):
        yield standin


def test_a_graph_goes_where_it_is_told(cli: Cli) -> None:
    result = cli("fuse", MODEL, "-o", "out/fused.onnx", "--json")
    assert result.code == 0, result.err
    assert "9 regions became one Conv each" in result.err
    assert "proof: worst of 1 output and 9 regions" in result.err
    assert "fused and proved" in result.err
    assert operators(onnx.load("out/fused.onnx"))["Conv"] == 9
    assert len(json.loads(result.out)["fused"]) == 9
    assert not Path("engines").exists()
    verified = cli("verify", MODEL, "out/fused.onnx", "--json")
    assert verified.code == 0, verified.err
    (verdict,) = json.loads(verified.out)
    worst = max(verdict["graphs"]["regions"], key=lambda region: region["ratio"])
    assert f"\n  worst of 9 regions {worst['ratio']:.2f} ({worst['name']})\n" in verified.err
    assert "  worst of 1 output (output), 8 samples, fp32: distance to" in verified.err
    assert "top-1 agreement 100%" in verified.err
    assert verdict["end_to_end"] == verdict["graphs"]["outputs"][0]


def test_a_graph_goes_to_the_workspace_by_default(cli: Cli) -> None:
    assert cli("fuse", MODEL, "--name", "m").code == 0
    fused = Path("engines/m/fused.onnx").read_bytes()
    assert cli("fuse", MODEL, "--name", "m").code == 0  # the same again
    assert Path("engines/m/fused.onnx").read_bytes() == fused
    refused = cli("fuse", GOLDEN / "official_ddp.onnx", "--name", "m")
    assert refused.code == 1
    assert "was made from another model" in refused.err
    assert Path("engines/m/fused.onnx").read_bytes() == fused
    assert cli("fuse", MODEL, "--name", "../m").code == 1


def test_one_model_may_be_named_in_several_ways(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "q"
    folder.mkdir()
    (folder / "m.onnx").write_bytes(MODEL.read_bytes())
    assert cli("fuse", "q/m.onnx").code == 0
    monkeypatch.chdir(folder)
    result = cli("fuse", "../q/m.onnx", "--engines", "../engines")
    assert result.code == 0, result.err


def test_nothing_to_fuse_is_said(cli: Cli) -> None:
    source = GOLDEN / "official_deployed.onnx"
    result = cli("fuse", source, "-o", "fused.onnx")
    assert result.code == 0
    assert "nothing to fuse; the model stays as it is" in result.err
    assert "unchanged" in result.err
    assert Path("fused.onnx").read_bytes() == source.read_bytes()


def test_one_region_is_no_plural(cli: Cli) -> None:
    onnx.save(graph("t = Conv(x, swap)  y = Mul(t, half)"), "a.onnx")
    assert "a.onnx: 1 region became one Conv\n" in cli("fuse", "a.onnx", "-o", "b.onnx").err


def test_what_is_not_listed_is_said_to_be_found_elsewhere(cli: Cli) -> None:
    source = GOLDEN / "official_se.onnx"
    result = cli("fuse", source, "-o", "fused.onnx", "--no-verify")
    assert "left as they are: 13 more; inspect lists them\n" in result.err
    assert cli("inspect", source).out.count("stays as it is: ") == 18


def test_an_old_opset_is_said_of_the_whole_graph(cli: Cli) -> None:
    head = '<ir_version: 4, opset_import: ["" : 6]>'
    onnx.save(graph("t = Conv(x, swap)  y = Neg(t)", head=head), "a.onnx")
    assert "left as it is: opset 6 is too old" in cli("fuse", "a.onnx", "-o", "b.onnx").err
    assert "stays as it is: opset 6 is too old" in cli("inspect", "a.onnx").out


def test_inputs_of_a_graph_come_by_name(cli: Cli) -> None:
    x = np.load(GOLDEN / "official_plain.npz")["x"]
    np.savez("x.npz", input=x)
    assert cli("fuse", MODEL, "-o", "fused.onnx", "--images", "x.npz").code == 0
    np.save("x.npy", x)  # a model's one input needs no name
    assert cli("verify", MODEL, "fused.onnx", "--images", "x.npy").code == 0
    np.savez("x.npz", image=x, other=x)
    refused = cli("fuse", MODEL, "-o", "other.onnx", "--images", "x.npz")
    assert refused.code == 1
    assert "takes the inputs ['input'], and these were given: ['image', 'other']" in refused.err
    assert not Path("other.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((MODEL, "--eps", "1e-3"), "--eps has no effect here: "),
        ((MODEL, "--no-ema"), "--ema/--no-ema has no effect here: "),
        ((MODEL, "--pth"), "is an ONNX model"),
        ((MODEL, "-o", "x.onnx", "--name", "x"), "--name has no effect here: --output says"),
        ((GOLDEN / "official_plain.pth", "-o", "x.onnx"), "is a checkpoint, no ONNX model"),
        ((MODEL, "--no-verify", "--images", "x.npz"), "--no-verify leaves out the proof"),
        ((GOLDEN / "official_plain.pth", "--no-verify", "--device", "cpu"), "--device has no"),
    ],
)
def test_options_without_effect_are_refused(
    cli: Cli, arguments: tuple[object, ...], said: str
) -> None:
    result = cli("fuse", *arguments)
    assert result.code == 2
    assert said in result.err
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("name", "said"),
    [("official_deployed", "is fused already"), ("families/yolov7_repconv", "noise of their own")],
)
def test_images_that_no_proof_would_read_are_refused(cli: Cli, name: str, said: str) -> None:
    result = cli("fuse", GOLDEN / f"{name}.pth", "--images", "x.npy")
    assert result.code == 1
    assert said in result.err
    assert not Path("engines").exists()


def test_eps_of_what_is_fused_already_is_refused(cli: Cli) -> None:
    result = cli("fuse", GOLDEN / "official_deployed.pth", "--eps", "1e-3")
    assert result.code == 1
    assert "is fused already, no batch norm to fold; leave out --eps" in result.err
    assert not Path("engines").exists()


@pytest.mark.parametrize("model", [MODEL, GOLDEN / "official_plain.pth"])
def test_an_empty_name_is_no_name(cli: Cli, model: Path) -> None:
    result = cli("fuse", model, "--name", "")
    assert result.code == 1
    assert "'' is no model name" in result.err


def test_a_checkpoint_from_the_hub(cli: Cli, hub: StandIn) -> None:
    hub.files = {"model.safetensors": b"", "pytorch_model.bin": b""}
    hub.files["weights/a.pth"] = (GOLDEN / "official_plain.pth").read_bytes()
    result = cli("fuse", f"hf:{REPO}:weights/a.pth", "--no-verify")
    assert result.code == 0, result.err
    assert f"hf:{REPO}@{COMMIT}:weights/a.pth: " in result.err
    sidecar = json.loads(Path("engines/repvgg_a0.rvgg_in1k/fused.safetensors.json").read_text())
    assert sidecar["source"]["path"] == f"hf:{REPO}@{COMMIT}:weights/a.pth"
    assert cli("verify").code == 0
    assert "9 RepVGGBlock" in cli("inspect", f"hf:{REPO}:weights/a.pth").out


def test_a_graph_from_the_hub(cli: Cli, hub: StandIn) -> None:
    hub.files = {"onnx/model.onnx": MODEL.read_bytes()}
    result = cli("fuse", f"hf:{REPO}:onnx/model.onnx")
    assert result.code == 0, result.err
    assert Path("engines/repvgg_a0.rvgg_in1k/fused.onnx").exists()


def test_the_hub_out_of_reach(cli: Cli, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    result = cli("fuse", f"hf:{REPO}")
    assert result.code == 1
    assert "offline" in result.err
    assert "Traceback" not in result.err


def test_a_killed_command_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM while the graph is being proved: the temporary folder goes."""
    output = tmp_path / "out.onnx"
    place = "repvgg_deploy.equivalence.graph:prove_graphs"
    with stopped_at(place, "fuse", MODEL, "-o", output, folder=tmp_path) as process:
        assert list(tmp_path.iterdir()) != []
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
