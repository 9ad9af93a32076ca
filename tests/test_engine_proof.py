"""export --trt where a GPU can run the engine: real commands, behind stand-ins for the builder,
pycuda and TensorRT's runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from repvgg_deploy.engine import compatible
from repvgg_deploy.engine.flavour import Flavour
from repvgg_deploy.engine.gpu import this_platform
from repvgg_deploy.engine.precision import LayerTypes
from repvgg_deploy.engine.request import BuildReport, BuildRequest
from repvgg_deploy.errors import CheckFailed, RepvggDeployError, UserError

from .conftest import Cli
from .engine_files import GPU, Machine, fake_machine
from .engines import plan
from .fake_tensorrt import FakeNetwork
from .test_engine_steps import classifier

FOLDER = Path("engines/ckpt")
ENGINE = FOLDER / "fp16.tensorrt.engine"


class Builder:
    """Stands for the building process; ``change`` is what it does wrong."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.change = machine, lambda logits: logits
        self.error: type[RepvggDeployError]
        self.fails, self.error = "", UserError

    def __call__(self, request: BuildRequest, say: Callable[[str, str], None]) -> BuildReport:
        if self.fails:
            raise self.error(self.fails)
        number = len(self.machine.tensorrt.engines)
        data = plan(version=(10, 13, 0, number))
        network = classifier(request.precision, change=self.change)
        self.machine.tensorrt.engines[data] = network
        Path(request.engine).write_bytes(data)
        if request.new_cache is not None:
            assert request.timing_cache is None or Path(request.timing_cache).exists()
            Path(request.new_cache).write_bytes(b"fresh timings")
        return BuildReport(
            version=self.machine.tensorrt.__version__,
            targets=[],
            layers=[asdict(LayerTypes("conv", "convolution", *[request.precision] * 3))],
            inspected=[],
            inputs=[],
            outputs=[],
            profiles=[],
            cache_fits=request.timing_cache is None
            or Path(request.timing_cache).read_bytes() == b"fresh timings",
        )


@pytest.fixture
def machine(cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = fake_machine(monkeypatch)
    here = compatible.Machine(machine.tensorrt.__version__, GPU, this_platform())
    flavour = Flavour("tensorrt", machine.tensorrt, "as the test wants it", GPU)  # type: ignore[arg-type]
    monkeypatch.setattr("repvgg_deploy.engine.flavour.choose_flavour", lambda asked: flavour)
    monkeypatch.setattr("repvgg_deploy.steps.engine_proof.this_machine", lambda flavour: here)
    monkeypatch.setattr("repvgg_deploy.steps.chain_proofs.this_machine", lambda flavour: here)
    assert cli("fuse", checkpoint).code == 0
    return machine


@pytest.fixture
def builder(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Builder:
    builder = Builder(machine)
    monkeypatch.setattr("repvgg_deploy.steps.engine.build_in_process", builder)
    return builder


def export(cli: Cli, *arguments: object) -> tuple[int, str]:
    result = cli("export", "--trt", "fp16", "--size", "32", *arguments)
    return result.code, result.err


def test_an_engine_is_run_before_it_appears(cli: Cli, builder: Builder) -> None:
    code, said = export(cli)
    assert code == 0, said
    assert "run on this GPU: error ratio" in said
    record = json.loads(ENGINE.with_name(f"{ENGINE.name}.json").read_text())
    assert record["proof"]["passed"] is True
    assert record["proof"]["checks"][0]["precision"] == "fp16"
    assert (record["targets"], record["gpu"]["name"]) == (["sm89"], GPU.name)
    result = cli("verify", "--json")
    assert result.code == 0, result.err
    found = {(c["file"], c["kind"]): c["passed"] for c in json.loads(result.out)["checks"]}
    assert found[ENGINE.name, "stored proof"] is True
    assert found[ENGINE.name, "proof"] is True


def test_an_engine_of_another_network_does_not_appear(cli: Cli, builder: Builder) -> None:
    assert export(cli)[0] == 0
    before = ENGINE.read_bytes()
    builder.change = lambda logits: logits * 1.5
    code, said = export(cli)
    assert code == 3
    assert "the engine built from it is another network" in said
    assert ENGINE.read_bytes() == before
    assert not list(FOLDER.glob(".*"))


def test_an_engine_that_cannot_run_is_kept_and_said_so(
    cli: Cli, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.machine.tensorrt.no_contexts = True
    code, said = export(cli)
    assert code == 0, said
    assert "note: the engine was not run:" in said
    assert "makes no execution context" in said
    assert "built, not run" in said
    assert ENGINE.exists()


def test_the_timing_cache_grows(cli: Cli, builder: Builder) -> None:
    cache = Path("timing.cache")
    for _ in range(2):
        code, said = export(cli, "--timing-cache", cache)
        assert code == 0, said
        assert cache.read_bytes() == b"fresh timings"
        assert "set-aside" not in said


def test_a_timing_cache_of_another_gpu_is_set_aside(cli: Cli, builder: Builder) -> None:
    cache = Path("timing.cache")
    cache.write_bytes(b"of another GPU")
    code, said = export(cli, "--timing-cache", cache)
    assert code == 0, said
    assert "it lies at timing.cache.set-aside now" in said
    assert Path("timing.cache.set-aside").read_bytes() == b"of another GPU"
    assert cache.read_bytes() == b"fresh timings"


def test_what_was_set_aside_before_stays(cli: Cli, builder: Builder) -> None:
    cache = Path("timing.cache")
    for content in (b"of one GPU", b"of another"):
        cache.write_bytes(content)
        assert export(cli, "--timing-cache", cache)[0] == 0
    assert Path("timing.cache.set-aside").read_bytes() == b"of one GPU"
    assert Path("timing.cache.set-aside-2").read_bytes() == b"of another"


def test_a_failed_build_leaves_the_timing_cache(cli: Cli, builder: Builder) -> None:
    cache = Path("timing.cache")
    cache.write_bytes(b"of another GPU")
    builder.fails = "the builder fails."
    code, said = export(cli, "--timing-cache", cache)
    assert code == 1
    assert "the builder fails" in said
    assert cache.read_bytes() == b"of another GPU"
    assert not list(Path().glob("*.set-aside"))


def test_targets_are_not_tensorrts(cli: Cli, builder: Builder) -> None:
    code, said = export(cli, "--target", "sm89")
    assert code == 1
    assert "--target is for TensorRT-RTX" in said


def test_an_engine_of_another_precision_is_a_failed_check(cli: Cli, builder: Builder) -> None:
    builder.fails, builder.error = "the finished engine is of fp32.", CheckFailed
    code, said = export(cli)
    assert code == 3
    assert "Error: the finished engine is of fp32." in said
    assert not ENGINE.exists()


def test_an_engine_whose_output_has_another_shape(
    cli: Cli, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it cannot be compared number by number is no reason to keep it."""

    five_classes = classifier

    def four_classes(precision: str, change: object) -> FakeNetwork:
        network = five_classes(precision, change=lambda logits: logits[:, :4])
        ((kind, _),) = network.outputs.values()
        return replace(network, outputs={"logits": (kind, (-1, 4))})

    monkeypatch.setattr("tests.test_engine_proof.classifier", four_classes)
    code, said = export(cli)
    assert code == 3, said
    assert "outputs of different shapes" in said
    assert not ENGINE.exists()
