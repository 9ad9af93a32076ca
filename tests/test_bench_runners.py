"""The runners that only bench has: each gives what torch gives."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from repvgg_deploy.bench.record import Subject
from repvgg_deploy.errors import UserError
from repvgg_deploy.export.graph import to_onnx
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.runners.onnx_streams import OrtStreams
from repvgg_deploy.runners.openvino import OpenVinoRunner
from repvgg_deploy.runners.protocol import Runner, run
from repvgg_deploy.runners.torch_modes import CompiledRunner, cpp_compiler
from repvgg_deploy.runners.torch_network import TorchRunner
from repvgg_deploy.steps.bench_faith import Yardstick
from repvgg_deploy.steps.bench_subjects import Entrant, network_entrant, onnx_entrant

from .helpers import randomized, tiny_spec

CPU = torch.device("cpu")


@pytest.fixture
def network() -> RepVGG:
    deploy = randomized(RepVGG(tiny_spec(), "deploy"))
    assert isinstance(deploy, RepVGG)
    return deploy


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((3, 3, 32, 32), dtype=np.float32)


def graph(network: RepVGG, precision: str = "fp32") -> bytes:
    return bytes(to_onnx(network, (32, 32), precision=precision).SerializeToString())


def assert_same(runner: Runner, network: RepVGG, images: np.ndarray, bound: float = 1e-5) -> None:
    expected = run(TorchRunner(network, CPU), images)
    for batch in (images, images[:2]):  # another batch size on the same runner
        np.testing.assert_allclose(run(runner, batch), expected[: len(batch)], rtol=0, atol=bound)


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("fp16", 1e-2)])
@pytest.mark.parametrize("in_flight", [False, True])
def test_openvino(
    network: RepVGG, images: np.ndarray, precision: str, bound: float, in_flight: bool
) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    runner = OpenVinoRunner(graph(network, precision), 1, in_flight)
    assert_same(runner, network, images, bound)
    assert runner.compile_seconds > 0
    seconds = runner.step()
    assert (seconds is not None and seconds > 0) if in_flight else seconds is None


def test_a_signal_after_openvino_was_released_elsewhere(network: RepVGG, tmp_path: Path) -> None:
    """On processors with AMX its plug-in leaves a freed signal stack behind, if it goes."""
    pytest.importorskip("openvino", reason="needs the extra openvino")
    (tmp_path / "x.onnx").write_bytes(graph(network))
    code = (
        "import signal, sys, threading, numpy, pathlib\n"
        "from repvgg_deploy.runners.openvino import OpenVinoRunner\n"
        "held = [OpenVinoRunner(pathlib.Path(sys.argv[1]))]\n"
        "held[0].load(numpy.zeros((1, 3, 32, 32), numpy.float32))\n"
        "thread = threading.Thread(target=held.clear)\n"
        "thread.start(); thread.join()\n"
        "signal.signal(signal.SIGINT, lambda *_: print('arrived'))\n"
        "signal.raise_signal(signal.SIGINT)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout.strip()) == (0, "arrived")


def test_openvino_says_what_it_cannot_take(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    with pytest.raises(UserError, match="the model: OpenVINO cannot read it: "):
        OpenVinoRunner(b"no model")


def test_several_threads_of_onnxruntime(network: RepVGG, images: np.ndarray) -> None:
    runner = OrtStreams(graph(network), 2)
    assert_same(runner, network, images)
    seconds = runner.step()
    assert seconds is not None
    assert seconds > 0


@pytest.mark.skipif(cpp_compiler() is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own
def test_torch_compile(
    network: RepVGG, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that torch compiled for another instruction set (ATEN_CPU_CAPABILITY) is not taken."""
    kept = Path(tempfile.gettempdir(), f"inductor-{torch.backends.cpu.get_cpu_capability()}")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(kept))
    runner = CompiledRunner(network, CPU)
    assert_same(runner, network, images)
    assert runner.compile_seconds > 0


def test_what_torch_cannot_compile_is_one_sentence(images: np.ndarray) -> None:
    class Opaque(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return x

    with pytest.raises(UserError, match=r"torch\.compile fails: "):
        CompiledRunner(Opaque(1, 1), CPU).load(images)


def entrants(network: RepVGG, other: RepVGG) -> tuple[Entrant, Entrant]:
    """The same network by what is known of it, and another one under its name."""
    of = [Subject(label, "fused", "fp32", (32, 32)) for label in ("a", "b")]
    return network_entrant(network, of[0], "same"), network_entrant(other, of[1], "same")


def test_the_yardstick_takes_rounding_and_nothing_else(network: RepVGG, images: np.ndarray) -> None:
    other = randomized(RepVGG(tiny_spec(), "deploy"), seed=1)
    assert isinstance(other, RepVGG)
    a, b = entrants(network, other)
    yardstick = Yardstick([a, b])
    output = run(TorchRunner(network, CPU), images)
    assert yardstick.doubt(a, images, output, "fp32") == ""
    half = run(TorchRunner(a.module().half(), CPU), images)
    assert yardstick.doubt(a, images, half, "fp16") == ""
    assert "times the reference's own" in yardstick.doubt(a, images, half, "fp32")
    moved = output + 1e-3 * np.abs(output).max()
    assert "times the reference's own" in yardstick.doubt(a, images, moved, "fp32")
    assert "gives (2,) logits" in yardstick.doubt(a, images, output[:, :2], "fp32")


def test_a_graph_that_torch_has_no_network_of(
    network: RepVGG, images: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "own.onnx"
    path.write_bytes(graph(network))
    entrant = onnx_entrant(path, "own.onnx")
    yardstick = Yardstick([entrant])
    output = run(TorchRunner(network, CPU), images)
    assert yardstick.doubt(entrant, images, output, "fp32") == ""
    assert "times the reference's own" in yardstick.doubt(entrant, images, output * 1.001, "fp32")


def quantized(path: Path) -> None:
    """Input in int8 with the scale 0.1, then a mean over the image."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["y"]),
    ]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]),
        helper.make_tensor("zero", TensorProto.INT8, [], [0]),
    ]
    made = helper.make_graph(nodes, "g", [image], [logits], constants)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=8), path)


def test_int8_is_held_against_its_graph_as_it_stands(images: np.ndarray, tmp_path: Path) -> None:
    quantized(tmp_path / "int8.onnx")
    entrant = onnx_entrant(tmp_path / "int8.onnx", "int8.onnx")
    assert entrant.subject.precision == "int8"
    yardstick = Yardstick([entrant])
    output = images.mean((2, 3)).astype(np.float64)
    assert yardstick.doubt(entrant, images, output, "int8") == ""
    assert "dB from its graph as it stands" in yardstick.doubt(entrant, images, -output, "int8")
