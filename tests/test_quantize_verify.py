"""verify of an int8 model: against its fake-quantized network, integer by integer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import numpy_helper

from repvgg_deploy.artifacts import QuantizedArtifact
from repvgg_deploy.equivalence.samples import probe_inputs
from repvgg_deploy.errors import UserError
from repvgg_deploy.files import sha256_file
from repvgg_deploy.quantize.fake import (
    FakeQuantized,
    fake_quantized,
    quantize,
    read_int8,
    to_bytes,
)
from repvgg_deploy.quantize.quality import Likeness
from repvgg_deploy.reparam.graph import fuse_graph
from repvgg_deploy.sidecar import read_sidecar, sidecar_path
from repvgg_deploy.sqnr import EXACT, LOWEST, from_json
from repvgg_deploy.steps.chain_proofs import Again, prove_again
from repvgg_deploy.steps.int8_proof import MOST_DIFFERING, stored_quality
from repvgg_deploy.steps.int8_quality import measure_quality, prove_quality
from repvgg_deploy.steps.weights import read_weights
from repvgg_deploy.workspace import ModelFolder

from .conftest import Cli
from .helpers import GOLDEN, golden, tiny_spec, training_state
from .int8 import PROOF, write_graph, write_int8

FOLDER = ModelFolder(Path("engines/ckpt"))
FUSED, MODEL, INTEGERS = FOLDER.fused, FOLDER.onnx("int8"), FOLDER.int8_weights
LAYER = "stage1.0.rbr_reparam"


@pytest.fixture
def int8(cli: Cli, checkpoint: Path) -> Cli:
    """A checkpoint, its fused weights, and int8.onnx with what lies beside it."""
    assert cli("fuse", checkpoint).code == 0
    write_int8(FOLDER)
    return cli


def verify(cli: Cli, *arguments: object, code: int = 0) -> dict[str, Any]:
    result = cli("verify", FUSED, MODEL, *arguments, "--json")
    assert result.code == code, result.err
    found: dict[str, Any] = json.loads(result.out)[0]
    return found


def change(path: Path, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    """One tensor of a model or of its companion."""
    if path == INTEGERS:
        tensors = safetensors.torch.load(path.read_bytes())
        tensors[name] = torch.tensor(edit(tensors[name].numpy()))
        path.write_bytes(to_bytes(tensors))
        return
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(edit(numpy_helper.to_array(tensor)), name))
    onnx.save(model, path)


def one_more(values: np.ndarray) -> np.ndarray:
    """The first number is another; integers by one."""
    changed = values.copy().reshape(-1)
    changed[0] = changed[0] + 1 if values.dtype != np.int8 else changed[0] - 1
    return changed.reshape(values.shape)


@pytest.mark.parametrize("float_type", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["official_plain", "official_se", "repvggplus_pse"])
def test_every_integer_is_that_of_the_fake_quantized_network(
    cli: Cli, name: str, float_type: str
) -> None:
    assert cli("fuse", golden(name), "--name", "ckpt").code == 0
    write_int8(FOLDER, float_type, size=64)
    found = verify(cli)
    assert found["passed"]
    integers = found["integers"]
    assert integers["values"] > 100_000
    # how many differ, if any, is a matter of the processor
    assert integers["differing"] <= MOST_DIFFERING[float_type] * integers["values"]
    assert len(integers["layers"]) == integers["quantized"]
    assert from_json(integers["network"]["sqnr_db"]) > 20
    assert from_json(integers["reference"]["sqnr_db"]) > 20
    text = cli("verify", FUSED, MODEL).err
    assert "that quantize chose" in text and "from ONNX Runtime's own values, torch has" in text


def test_either_order_images_and_the_checkpoint_itself(int8: Cli, checkpoint: Path) -> None:
    images = Path("images.npy")
    np.save(images, np.random.default_rng(1).standard_normal((5, 3, 32, 32)).astype(np.float32))
    assert verify(int8, "--images", images)["end_to_end"]["samples"] == 5
    assert int8("verify", MODEL, FUSED).code == 0
    assert int8("verify", checkpoint, MODEL).code == 0


@pytest.mark.parametrize("path", [MODEL, INTEGERS])
@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("weight", "integers are not those of the fake-quantized network"),
        ("weight_scale", "1 of 4 numbers are not those"),
        ("input_scale", "1 of 1 numbers are not those"),
        ("bias", "1 of 4 numbers are not those"),
    ],
)
def test_one_number_changed(int8: Cli, path: Path, part: str, sentence: str) -> None:
    change(path, f"{LAYER}.{part}", one_more)
    result = int8("verify", FUSED, MODEL)
    assert result.code == 3
    assert f"{LAYER}.{part}: 1 of" in result.err
    assert sentence in result.err


def test_a_zero_point_that_is_none(int8: Cli) -> None:
    change(MODEL, f"{LAYER}.input_zero_point", one_more)
    result = int8("verify", FUSED, MODEL)
    assert result.code == 3
    assert "has a zero point other than 0; quantize it symmetrically" in result.err


def test_a_layer_in_float_that_differs(cli: Cli, tmp_path: Path) -> None:
    torch.save(training_state(tiny_spec(se_ratio=4)), tmp_path / "ckpt.pth")
    assert cli("fuse", tmp_path / "ckpt.pth").code == 0
    write_int8(FOLDER)
    assert verify(cli)["passed"]
    change(MODEL, "stage0.se.down.weight", one_more)
    result = cli("verify", FUSED, MODEL)
    assert result.code == 3
    assert "stage0.se.down.weight: 1 of" in result.err


def test_a_graph_with_other_nodes(int8: Cli) -> None:
    """All tensors are right, and what is done with them is not."""
    model = onnx.load(MODEL)
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Abs"
    onnx.save(model, MODEL)
    result = int8("verify", FUSED, MODEL)
    assert result.code == 3
    assert "steps off torch's, more than 1" in result.err


def test_a_head_that_differs(int8: Cli) -> None:
    """Behind the last integers only the logits tell."""
    model = onnx.load(MODEL)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    gemm.output[0] = "inner"
    model.graph.node.append(onnx.helper.make_node("Neg", ["inner"], ["logits"]))
    onnx.save(model, MODEL)
    result = int8("verify", FUSED, MODEL)
    assert result.code == 3
    assert "end to end: distance to the float64 truth" in result.err


def test_weights_of_another_network(int8: Cli, tmp_path: Path) -> None:
    torch.save(training_state(seed=5), tmp_path / "other.pth")
    assert int8("fuse", tmp_path / "other.pth").code == 0
    other = Path("engines/other/fused.safetensors")
    result = int8("verify", other, MODEL)
    assert result.code == 3
    assert "its sidecar says that it was made from another file (fused.safetensors)" in result.err
    sidecar_path(MODEL).unlink()
    result = int8("verify", other, MODEL)
    assert result.code == 3
    assert "its weights give other logits than the reference's (SQNR -" in result.err
    assert int8("verify", FUSED, MODEL).code == 0


def test_without_its_companion(int8: Cli) -> None:
    INTEGERS.unlink()
    result = int8("verify", FUSED, MODEL)
    assert result.code == 1
    assert f"{MODEL}: is quantized, and int8.safetensors" in result.err


@pytest.mark.parametrize("float_type", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["apple_mobileone", "yolov7_repconv", "official_se"])
def test_a_graph_that_torch_has_no_network_of(cli: Cli, name: str, float_type: str) -> None:
    folder = ModelFolder(Path("engines/own"))
    folder.path.mkdir(parents=True)
    source, model = folder.path / "net.onnx", folder.onnx("int8")
    onnx.save(fuse_graph(onnx.load(GOLDEN / f"{name}.onnx")).model, source)
    write_graph(onnx.load(source), source, folder, float_type)
    for pair in ((source, model), (model, source)):
        result = cli("verify", *pair, "--json")
        assert result.code == 0, result.err
        found = json.loads(result.out)[0]["integers"]
        assert found["values"] > 10_000
        assert found["differing"] <= MOST_DIFFERING[float_type] * found["values"]
        assert len(found["sums"]) == found["quantized"] == len(found["layers"])
    assert "the output of a layer is at most" in result.err
    assert cli("verify", folder.path).code == 0

    change(model, next(t.name for t in onnx.load(model).graph.initializer if "bias" in t.name),
           one_more)  # fmt: skip
    result = cli("verify", source, model)
    assert result.code == 3
    assert "1 of" in result.err and "are not those of the fake-quantized network" in result.err


def test_a_graph_whose_layer_does_something_else(cli: Cli) -> None:
    folder = ModelFolder(Path("engines/own"))
    folder.path.mkdir(parents=True)
    source = folder.path / "net.onnx"
    onnx.save(fuse_graph(onnx.load(GOLDEN / "yolov7_repconv.onnx")).model, source)
    path = write_graph(onnx.load(source), source, folder)
    model = onnx.load(path)
    dequantizer = next(n for n in model.graph.node if n.op_type == "DequantizeLinear")
    at = list(model.graph.node).index(dequantizer)
    dequantizer.output[0] += "_before"
    off = onnx.helper.make_node("Neg", [dequantizer.output[0]], [dequantizer.name], name="off")
    model.graph.node.insert(at + 1, off)
    onnx.save(model, path)
    result = cli("verify", source, path)
    assert result.code == 3
    assert "is quantized on one side alone" in result.err


def test_a_float_graph_is_no_int8_model(int8: Cli) -> None:
    assert int8("export", "--onnx", "--size", "32").code == 0
    result = int8("verify", FOLDER.onnx("fp32"), MODEL)
    assert result.code == 3
    assert "its sidecar says that it was made from another file" in result.err


def test_served_beside_the_others(int8: Cli) -> None:
    result = int8("serve", "--triton", "repo")
    assert result.code == 0, result.err
    assert Path("repo/ckpt_int8_onnx/1/model.onnx").read_bytes() == MODEL.read_bytes()


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        (f"{LAYER}.weight", torch.zeros(4, 4, 3, 3), "has no weight in int8"),
        (f"{LAYER}.weight_scale", torch.ones(3), "its weight_scale is not fp32 of shape [4]"),
        (f"{LAYER}.weight_scale", torch.zeros(4), "its weight_scale is not positive"),
        (f"{LAYER}.input_scale", torch.ones(1), "its input_scale is not fp32 of shape []"),
        (f"{LAYER}.input_scale", torch.tensor(float("nan")), "holds NaN or infinity"),
        ("more.weight", torch.ones(1), "'more.weight' belongs to no part of a plain repvgg"),
        ("linear.bias", torch.ones(7), "linear.bias has shape (7,)"),
    ],
)
def test_a_companion_that_is_damaged(
    int8: Cli, name: str, values: torch.Tensor, sentence: str
) -> None:
    tensors = safetensors.torch.load(INTEGERS.read_bytes())
    INTEGERS.write_bytes(to_bytes({**tensors, name: values}))
    with pytest.raises(UserError) as error:
        fake_quantized(read_int8(INTEGERS))
    assert sentence in str(error.value)
    assert int8("verify", FUSED, MODEL).code in (1, 3)


def test_the_file_is_the_same_each_time(int8: Cli) -> None:
    before = MODEL.read_bytes(), INTEGERS.read_bytes()
    write_int8(FOLDER)
    assert (MODEL.read_bytes(), INTEGERS.read_bytes()) == before


def test_rounding_is_half_to_even_and_clamped() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 127.4, 127.6, 1e30, -1e30, -128.4])
    expected = [0, 2, 2, 0, -2, 127, 127, 127, -128, -128]
    assert quantize(x, 1.0).tolist() == expected
    assert quantize(x.double() * 0.25, 0.25).tolist() == expected
    layer = FakeQuantized(torch.nn.Identity(), 0.25)
    assert torch.equal(layer(x * 0.25), torch.tensor(expected) * 0.25)


class TestChain:
    """``verify`` of the folder."""

    def checks(self, cli: Cli, code: int = 0) -> dict[str, tuple[bool | None, str]]:
        result = cli("verify", "--json")
        assert result.code == code, result.err
        found = json.loads(result.out)["checks"]
        return {c["kind"]: (c["passed"], c["detail"]) for c in found if c["file"] == MODEL.name}

    def change_sidecar(self, **changes: object) -> None:
        path = sidecar_path(MODEL)
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def test_all_is_well(self, int8: Cli) -> None:
        kinds = ("hash", "lineage", "stored proof", "proof")
        found = self.checks(int8)
        passed, note = found["proof"]
        assert passed is True
        assert note.startswith("its SQNR was not measured again, since x does not hold the images")
        assert found == {**dict.fromkeys(kinds, (True, "")), "proof": (True, note)}

    def test_an_integer_and_its_hash(self, int8: Cli) -> None:
        change(MODEL, f"{LAYER}.weight", one_more)
        assert self.checks(int8, 3)["hash"][0] is False
        self.change_sidecar(sha256=sha256_file(MODEL))
        found = self.checks(int8, 3)
        assert found["hash"] == (True, "")
        assert found["proof"][0] is False
        assert f"{LAYER}.weight: 1 of" in found["proof"][1]

    def test_the_companion(self, int8: Cli) -> None:
        change(INTEGERS, f"{LAYER}.weight", one_more)
        passed, detail = self.checks(int8, 3)["hash"]
        assert passed is False
        assert "the data file int8.safetensors is not the one" in detail

    def test_other_weights(self, int8: Cli) -> None:
        FUSED.write_bytes(FUSED.read_bytes() + b" ")
        found = self.checks(int8, 3)
        assert found["lineage"][0] is False
        assert found["proof"][0] is None

    def test_with_the_images_that_it_was_calibrated_with(self, int8: Cli) -> None:
        images = probe_inputs(3, 32, 32, 16)
        batches = [images[:8], images[8:]]
        network = read_weights(FUSED).network.build()
        measured = measure_quality(network, MODEL, batches, torch.device("cpu"))
        assert 10 < measured.sqnr_db < 60
        assert 0.5 < measured.agreement <= 1

        def prove(**figures: float | None) -> tuple[bool | None, str]:
            bounds = {"min_sqnr_db": None, "min_agreement": None, "sqnr_db": measured.sqnr_db}
            self.change_sidecar(proof={**PROOF, **bounds, **figures})
            artifact = read_sidecar(MODEL, QuantizedArtifact)
            return prove_again(
                MODEL, artifact, FUSED, Again("cpu", None, [], lambda artifact: batches)
            )

        assert prove() == (True, "")
        passed, detail = prove(sqnr_db=measured.sqnr_db + 1)
        assert passed is False
        assert f"its SQNR is {measured.sqnr_db:.1f} dB, and its sidecar says" in detail
        passed, detail = prove(sqnr_db=None)
        assert passed is False
        assert "its sidecar says exact" in detail
        passed, detail = prove(min_sqnr_db=measured.sqnr_db + 0.1)
        assert passed is False
        assert "on the calibration images it has an SQNR of" in detail

    def test_equal_outputs_are_equal_again_or_as_near_as_rounding(self, int8: Cli) -> None:
        self.change_sidecar(proof={**PROOF, "sqnr_db": None})
        artifact = read_sidecar(MODEL, QuantizedArtifact)
        for sqnr_db in (EXACT, 130.0, 60.0):
            assert prove_quality(artifact, Likeness(sqnr_db, 1.0)) == (True, "")
        for sqnr_db in (40.0, LOWEST):
            assert prove_quality(artifact, Likeness(sqnr_db, 1.0))[0] is False

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"layers": []}, "the input scale None, but the model itself says"),
            ({"float_type": "fp16"}, "its sidecar says fp16 where it is not quantized, but: fp32"),
            ({"float_type": "int4"}, "'int4' is no float type"),
            ({"precision": "fp16"}, "'fp16' is no precision of a quantized model"),
            ({"data": {"../x": "0"}}, "'../x' is no file name"),
            ({"file": "a/b"}, "'a/b' is no file name"),
            ({"file": "other.onnx"}, "its sidecar is that of other.onnx"),
            ({"input_shape": [1]}, "input_shape has not four dimensions"),
            ({"calibration": {"path": 1}}, "calibration.path is no str"),
            ({"method": {"effort": "fast"}}, "method.seed is no int"),
            ({"proof": {**PROOF, "sqnr_db": "30"}}, "proof.sqnr_db is no float"),
            (
                {"proof": {k: v for k, v in PROOF.items() if k != "sqnr_db"}},
                "the proof has no sqnr_db",
            ),
            ({"layers": [{"name": "a", "quantized": True, "input_scale": None, "reason": ""}]},
             "layer 'a' is quantized without a scale"),
        ],
    )  # fmt: skip
    def test_a_record_that_is_none(
        self, int8: Cli, changes: dict[str, object], sentence: str
    ) -> None:
        self.change_sidecar(**changes)
        passed, detail = self.checks(int8, 3)["hash"]
        assert passed is False
        assert sentence in detail


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sqnr_db": 19.9}, "it says an SQNR of 19.9, less than 20.0"),
        ({"sqnr_db": float("nan")}, "it says an SQNR of nan, less than 20.0"),
        ({"sqnr_db": float("nan"), "min_sqnr_db": None}, "it says an SQNR of nan"),
        ({"sqnr_db": LOWEST, "min_sqnr_db": None}, "it says an SQNR of -1000.0"),
        ({"agreement": 0.5}, "it says an agreement of 0.5, less than 0.99"),
        ({"agreement": None}, "it says an agreement of None"),
        ({"top1_drop": 0.3, "max_drop": 0.2}, "it says a drop in top-1 of 0.3, more than 0.2"),
        ({"passed": False}, "it does not say that it passed"),
        ({"integers": {"values": 9, "differing": 1, "largest": 2}}, "an integer is 2 steps off"),
    ],
)
def test_a_stored_proof_that_does_not_hold(changes: dict[str, Any], sentence: str) -> None:
    assert stored_quality(PROOF) == (True, "")
    passed, detail = stored_quality({**PROOF, **changes})
    assert not passed
    assert sentence in detail


def test_a_stored_proof_without_bounds_holds() -> None:
    assert stored_quality({**PROOF, "min_sqnr_db": None, "sqnr_db": 3.0})[0]
    assert stored_quality({**PROOF, "top1_drop": 0.1, "max_drop": 0.2})[0]


@pytest.mark.parametrize("bound", [20.0, None])
def test_a_stored_proof_of_equal_outputs_holds(bound: float | None) -> None:
    """JSON has null for them."""
    assert stored_quality({**PROOF, "sqnr_db": None, "min_sqnr_db": bound}) == (True, "")


def test_an_inspection_says_what_is_in_int8(int8: Cli) -> None:
    result = int8("inspect", MODEL)
    assert result.code == 0
    assert "in int8: 7 of 7 weighted layers" in result.out
    assert "its weights are not constant" not in result.out
