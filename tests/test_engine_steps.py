"""verify and bench of engines: the network is torch's, behind stand-ins for pycuda and TensorRT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repvgg_deploy.artifacts import EngineArtifact
from repvgg_deploy.errors import CheckFailed, UserError
from repvgg_deploy.files import sha256_file
from repvgg_deploy.sidecar import read_sidecar
from repvgg_deploy.steps.bench import Outcome
from repvgg_deploy.steps.bench import bench as run_bench
from repvgg_deploy.steps.bench_engines import BuildLike
from repvgg_deploy.steps.bench_field import Settings
from repvgg_deploy.steps.export import check_onnx
from repvgg_deploy.steps.weights import read_weights
from repvgg_deploy.workspace import Workspace

from .conftest import Cli
from .engine_files import Machine, fake_machine
from .fake_tensorrt import DataType, FakeNetwork, numpy_type

FUSED = Path("engines/ckpt/fused.safetensors")
ONNX = Path("engines/ckpt/fp32.onnx")
ENGINE = Path("engines/ckpt/fp32.tensorrt.engine")
HALF = Path("engines/ckpt/fp16.rtx.engine")
KINDS = {"fp32": DataType.FLOAT, "fp16": DataType.HALF, "bf16": DataType.BF16}
TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Images = np.ndarray


def classifier(
    precision: str = "fp32",
    batches: tuple[int, int, int] = (1, 4, 8),
    change: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits,
    channels: int = 3,
    size: int = 32,
) -> FakeNetwork:
    """The fused network of the current folder as an engine; its output goes through ``change``."""
    network = read_weights(FUSED).network.build(TORCH[precision])
    kind = KINDS[precision]

    def compute(given: dict[str, Images]) -> dict[str, Images]:
        images = torch.from_numpy(given["input"].astype(np.float32)).to(TORCH[precision])
        with torch.inference_mode():
            logits = change(network(images)).float().numpy()
        return {"logits": logits.astype(numpy_type(kind))}

    shapes = tuple((n, channels, size, size) for n in batches)
    return FakeNetwork(
        inputs={"input": (kind, (-1, channels, size, size))},
        outputs={"logits": (kind, (-1, 5))},
        compute=compute,
        profiles=[{"input": shapes}],  # type: ignore[dict-item]
    )


@pytest.fixture
def pipeline(cli: Cli, checkpoint: Path) -> Cli:
    assert cli("fuse", checkpoint).code == 0
    assert cli("export", "--onnx", "--size", "32").code == 0
    return cli


@pytest.fixture
def machine(pipeline: Cli, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with a GPU, and an engine in the folder; from torch's view it has none."""
    machine = fake_machine(monkeypatch)
    monkeypatch.setattr("repvgg_deploy.steps.bench_engines.this_gpu", lambda: object())
    monkeypatch.setattr("repvgg_deploy.steps.bench_runtimes.cpp_compiler", lambda: None)  # slow

    def build_like(onnx: Path, path: Path, like: EngineArtifact) -> None:
        made = {"precision": like.precision, "flavour": like.flavour, "version": like.version}
        engine(machine, path, classifier(like.precision), **made)

    monkeypatch.setattr("repvgg_deploy.steps.engine.build_like", build_like)
    engine(machine, ENGINE, classifier())
    return machine


def engine(machine: Machine, path: Path, network: FakeNetwork, **changes: Any) -> Path:
    lineage = [{"path": FUSED.name, "sha256": sha256_file(FUSED)}]
    return machine.engine(path, network, **{"lineage": lineage, **changes})


@pytest.mark.parametrize("pair", [(FUSED, ENGINE), (ENGINE, "ckpt.pth"), (ONNX, ENGINE)])
def test_an_engine_passes(pipeline: Cli, machine: Machine, pair: tuple[Path, Path]) -> None:
    result = pipeline("verify", *pair, "--json")
    assert result.code == 0, result.err
    (verdict,) = json.loads(result.out)
    assert Path(verdict["candidate"]) == ENGINE
    assert verdict["end_to_end"]["samples"] == 8
    assert verdict["end_to_end"]["precision"] == "fp32"
    assert verdict["end_to_end"]["ratio"] <= 8


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_held_against_its_own_rounding(
    pipeline: Cli, machine: Machine, precision: str
) -> None:
    path = ENGINE.with_name(f"{precision}.tensorrt.engine")
    engine(machine, path, classifier(precision), precision=precision)
    result = pipeline("verify", FUSED, path, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)[0]["end_to_end"]["precision"] == precision


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_against_the_model_it_was_built_from(
    pipeline: Cli, machine: Machine, precision: str
) -> None:
    folder = Workspace(Path("engines")).model()
    check_onnx(folder, precision=precision, image_size=(32, 32))()
    path = ENGINE.with_name(f"{precision}.tensorrt.engine")
    engine(machine, path, classifier(precision), precision=precision)
    result = pipeline("verify", ONNX.with_name(f"{precision}.onnx"), path, "--json")
    assert result.code == 0, result.err
    end = json.loads(result.out)[0]["end_to_end"]
    assert (end["precision"], end["ratio"] <= 8) == (precision, True)


def test_an_engine_that_computes_something_else(pipeline: Cli, machine: Machine) -> None:
    path = engine(machine, ENGINE, classifier(change=lambda logits: logits * 1.001))
    for reference in (FUSED, ONNX):
        result = pipeline("verify", reference, path)
        assert result.code == 3
        assert "is not the network of" in result.err


def test_tf32_is_judged_by_its_own_rounding(pipeline: Cli, machine: Machine) -> None:
    rounded = classifier(change=lambda logits: logits * (1 + 2.0**-11))
    for tf32, code in ((True, 0), (False, 3)):
        path = engine(machine, ENGINE, rounded, options={"tf32": tf32})
        assert pipeline("verify", FUSED, path).code == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda logits: logits + 0.1 * logits.std() * torch.randn_like(logits), 0),
        (lambda logits: logits * 1.5, 3),
        (lambda logits: logits.flip(1), 3),
    ],
    ids=["20 dB", "6 dB", "other answers"],
)
def test_an_int8_engine_is_judged_by_sqnr_and_agreement(
    pipeline: Cli, machine: Machine, change: Callable[[torch.Tensor], torch.Tensor], code: int
) -> None:
    """Values on the edge between two integers fall to either side: 8 times an error of 0 is 0."""
    path = ENGINE.with_name("int8.tensorrt.engine")
    engine(machine, path, classifier(change=change), precision="int8")
    result = pipeline("verify", ONNX, path, "--json")
    assert result.code == code, result.err
    end = json.loads(result.out)[0]["end_to_end"]
    assert (end["precision"], end["passed"], end["limit"]) == ("int8", code == 0, 1.0)
    assert (end["sqnr_db"] >= 10) == (code == 0)


@pytest.mark.parametrize(("batches", "samples"), [((1, 2, 3), 9), ((12, 12, 12), 12)])
def test_samples_are_whole_batches_of_the_profile(
    pipeline: Cli, machine: Machine, batches: tuple[int, int, int], samples: int
) -> None:
    path = engine(machine, ENGINE, classifier(batches=batches))
    result = pipeline("verify", FUSED, path, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)[0]["end_to_end"]["samples"] == samples


def test_images_of_the_user(pipeline: Cli, machine: Machine) -> None:
    path = engine(machine, ENGINE, classifier(batches=(4, 4, 8)))
    for count, used in ((19, 16), (4, 4), (3, None)):
        np.savez("x.npz", x=np.random.default_rng(0).random((count, 3, 32, 32)))
        result = pipeline("verify", FUSED, path, "--images", "x.npz", "--json")
        assert result.code == (1 if used is None else 0), result.err
        if used is not None:
            assert json.loads(result.out)[0]["end_to_end"]["samples"] == used
    assert "takes at least 4 images" in result.err
    np.savez("x.npz", x=np.random.default_rng(0).normal(size=(8, 3, 16, 16)))
    assert "takes images of 32x32" in pipeline("verify", FUSED, path, "--images", "x.npz").err


def test_no_gpu(pipeline: Cli, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repvgg_deploy.engine.load.this_gpu", lambda: None)
    result = pipeline("verify", FUSED, ENGINE)
    assert result.code == 1
    assert f"Error: {ENGINE}: an engine runs on an NVIDIA GPU only" in result.err
    assert "Traceback" not in result.err


def two_inputs() -> FakeNetwork:
    network = classifier()
    network.inputs["mask"] = (DataType.FLOAT, (-1, 3, 32, 32))
    network.profiles[0]["mask"] = network.profiles[0]["input"]
    return network


@pytest.mark.parametrize(
    ("reference", "network", "changes", "words"),
    [
        (FUSED, lambda: classifier(channels=1), {}, "takes images of 1 channels and"),
        (ONNX, lambda: classifier(size=16), {}, "name the ONNX model that the engine was built"),
        (ONNX, lambda: classifier("fp16"), {}, "takes float16 images"),
        (FUSED, classifier, {"precision": "int8"}, "is an int8 engine, and weights cannot be run"),
        (FUSED, two_inputs, {}, "this step takes engines with one image input"),
        (ENGINE, classifier, {}, "is an engine, as is"),
    ],
)
def test_pairs_that_cannot_be_compared(
    pipeline: Cli,
    machine: Machine,
    reference: Path,
    network: Callable[[], FakeNetwork],
    changes: dict[str, Any],
    words: str,
) -> None:
    path = engine(machine, Path("engines/ckpt/other.engine"), network(), **changes)
    result = pipeline("verify", reference, path)
    assert result.code == 1
    assert words in result.err
    assert "Traceback" not in result.err


def bench(pipeline: Cli, *arguments: object) -> Any:
    return pipeline(
        "bench", "--duration", "0.1", "--threads", "1", "--no-roofline", "--json", *arguments
    )


def bench_engines(build_like: BuildLike, builds: int = 1) -> Outcome:
    settings = Settings([2], 0.1, 1, ["tensorrt"], builds=builds, roofline=False)
    model = Workspace(Path("engines")).model()
    return run_bench(settings, model, [], model.bench, command="bench", build_like=build_like)


def test_engines_are_measured_where_they_run(pipeline: Cli, machine: Machine) -> None:
    rtx = classifier("fp16")
    engine(machine, HALF, rtx, precision="fp16", flavour="rtx", version="1.7.1")
    result = bench(pipeline, "--batch", "1,2")
    assert result.code == 0, result.err
    data = json.loads(result.out)
    seen = {(contest["runtime"], contest["batch"]) for contest in data["contests"]}
    assert seen >= {(runtime, n) for runtime in ("tensorrt fp32", "rtx fp16") for n in (1, 2)}
    assert {("torch-cpu", 1), ("onnxruntime-cpu", 1)} <= seen
    notes = "\n".join(data["notes"])
    assert "fp16.rtx.engine: the first inference took" in notes
    assert "s (cold)" in notes
    assert "(warm, from the runtime cache)" in bench(pipeline, "--runtime", "rtx").err


def test_an_engine_against_unfused_ones_built_likewise(pipeline: Cli, machine: Machine) -> None:
    built: list[tuple[bytes, Path]] = []

    def build_like(onnx: Path, path: Path, artifact: EngineArtifact) -> None:
        assert artifact == read_sidecar(ENGINE, EngineArtifact)
        built.append((onnx.read_bytes(), path))
        engine(machine, path, classifier())

    outcome = bench_engines(build_like)
    (contest,) = outcome.record.contests
    name = ENGINE.name
    labels = [f"{name}: unfused", f"{name}: unfused, conv-BN folded", name]
    assert [one.label for one in contest.measured] == labels
    assert [one.ratio is None for one in contest.measured] == [True, False, False]
    assert outcome.differing == []
    kinds = {subject.label: subject.kind for subject in outcome.record.subjects}
    assert kinds == dict(zip(labels, ("unfused", "folded", "engine"), strict=True))
    (raw, first), (folded, second) = built
    assert len(raw) > len(folded)  # batch norms are gone
    assert not first.exists()  # they were for the measurement only
    assert not second.exists()
    assert machine.pycuda.used == 0


def test_unfused_engines_that_cannot_be_built_are_noted(pipeline: Cli, machine: Machine) -> None:
    def build_like(onnx: Path, path: Path, artifact: EngineArtifact) -> None:
        raise UserError("memory ran out.")

    outcome = bench_engines(build_like)
    (one,) = outcome.record.contests[0].measured
    assert one.label == ENGINE.name
    assert "unfused could not be built: memory ran out." in "\n".join(outcome.record.notes)


def test_an_unfused_engine_that_fails_its_checks_is_no_note(
    pipeline: Cli, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_like(onnx: Path, path: Path, artifact: EngineArtifact) -> None:
        raise CheckFailed("its network is of fp32.")

    monkeypatch.setattr("repvgg_deploy.steps.engine.build_like", build_like)
    result = bench(pipeline, "--batch", "2", "--runtime", "tensorrt")
    assert result.code == 3
    last = result.err.splitlines()[-1]
    assert last.startswith("Error: engines/ckpt/bench.json: ")
    assert f"{ENGINE.name}: unfused: its network is of fp32" in last
    (contest,) = json.loads(result.out)["contests"]  # the engine's own speed is kept
    assert [one["label"] for one in contest["measured"]] == [ENGINE.name]


def test_an_engine_is_built_again_for_the_noise_of_its_tactics(
    pipeline: Cli, machine: Machine
) -> None:
    sources: list[Path] = []

    def build_like(onnx: Path, path: Path, artifact: EngineArtifact) -> None:
        sources.append(onnx)
        engine(machine, path, classifier())

    (contest,) = bench_engines(build_like, builds=3).record.contests
    measured = [one.label for one in contest.measured]
    assert measured[2:] == [ENGINE.name, *(f"{ENGINE.name}: build {n}" for n in (2, 3))]
    assert contest.baseline == f"{ENGINE.name}: unfused"
    assert len(sources) == 4


def test_a_batch_that_no_profile_holds(pipeline: Cli, machine: Machine) -> None:
    result = bench(pipeline, "--batch", "8,16")
    assert result.code == 0, result.err
    assert (
        "fp32.tensorrt.engine: not measured: engines/ckpt/fp32.tensorrt.engine: no profile of the "
        "engine holds 'input' of 16x3x32x32, only 1x3x32x32 to 8x3x32x32"
    ) in result.err
    batches = {c["batch"] for c in json.loads(result.out)["contests"] if "tensor" in c["runtime"]}
    assert batches == {8}
    result = bench(pipeline, "--batch", "16", "--runtime", "tensorrt")
    assert result.code == 1
    assert "no profile of the engine holds 'input' of 16x3x32x32" in result.err


def damage(machine: Machine) -> None:
    ENGINE.write_bytes(b"cut off")


def take_away(machine: Machine) -> None:
    ENGINE.unlink()


def of_other_weights(machine: Machine) -> None:
    engine(machine, ENGINE, classifier(), lineage=[{"path": "x", "sha256": "1" * 64}])


def of_another_gpu(machine: Machine) -> None:
    engine(machine, ENGINE, classifier(), targets=["sm75"])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (damage, "is not the file that fp32.tensorrt.engine.json describes"),
        (of_other_weights, "was not built from the fused weights of its folder"),
        (of_another_gpu, "does not load here"),
        (take_away, "holds no tensorrt engine; make one first"),
    ],
)
def test_engines_that_cannot_be_measured(
    pipeline: Cli, machine: Machine, fault: Callable[[Machine], None], words: str
) -> None:
    fault(machine)
    result = bench(pipeline, "--runtime", "tensorrt")
    assert result.code == 1
    assert words in result.err
    assert "Traceback" not in result.err
    result = bench(pipeline, "--runtime", "torch-cpu")  # where engines are not asked for
    assert result.code == 0
    assert words not in result.err
    result = bench(pipeline)
    assert result.code == 0
    assert (words in result.err) == (fault is not take_away)


def test_without_a_gpu_engines_are_noted(pipeline: Cli, machine: Machine) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repvgg_deploy.steps.bench_engines.this_gpu", lambda: None)
        result = bench(pipeline)
        assert result.code == 0
        assert "note: fp32.tensorrt.engine: not measured, it needs a GPU" in result.err
        result = bench(pipeline, "--runtime", "tensorrt")
        assert result.code == 1
        assert "runtime tensorrt: not usable here" in result.err


def test_what_is_missing_to_run_engines_is_named(
    pipeline: Cli, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "repvgg_deploy.steps.bench_engines.available",
        lambda name: None if name == "pycuda.driver" else object(),
    )
    result = bench(pipeline)
    assert result.code == 0
    assert "fp32.tensorrt.engine: not measured, pycuda.driver cannot be imported here" in result.err


def test_evaluate_fills_batches_up_to_what_the_profile_takes(
    pipeline: Cli, machine: Machine
) -> None:
    """37 images on engines that take 4 to 8 or 48 at once, in float and in half precision."""
    engine(machine, ENGINE, classifier(batches=(4, 4, 8)))
    engine(machine, HALF, classifier("fp16", batches=(48, 48, 48)), precision="fp16")
    rng = np.random.default_rng(0)
    np.savez("x.npz", x=rng.normal(size=(37, 3, 32, 32)), y=rng.integers(0, 5, 37))
    result = pipeline("evaluate", "--data", "x.npz", "--json")
    assert result.code == 0, result.err
    found = {network["name"]: network for network in json.loads(result.out)["networks"]}
    assert json.loads(result.out)["left_out"] == {}
    own, half = found[ENGINE.name], found[HALF.name]
    assert own["runtime"] == "tensorrt fp32"
    assert own["scores"]["samples"] == half["scores"]["samples"] == 37
    assert own["scores"]["top1"] == found["fused.safetensors"]["scores"]["top1"]
    assert own["scores"]["sqnr_db"] > 100
    assert 40 < half["scores"]["sqnr_db"] < 100


def test_evaluate_of_an_engine_for_images_of_another_size(pipeline: Cli, machine: Machine) -> None:
    engine(machine, ENGINE, classifier(size=48))
    np.savez("x.npz", x=np.random.default_rng(0).normal(size=(3, 3, 32, 32)), y=[0, 1, 2])
    result = pipeline("evaluate", "--data", "x.npz", "--json")
    assert result.code == 0, result.err
    assert (
        "takes images of 3 channels, 48x48 pixels"
        in json.loads(result.out)["left_out"][ENGINE.name]
    )
