"""The building process: what it answers, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from repvgg_deploy.engine import build as engine_build
from repvgg_deploy.engine import process
from repvgg_deploy.engine.gpu import Gpu
from repvgg_deploy.engine.options import BuildOptions, Profile
from repvgg_deploy.engine.process import build_in_process
from repvgg_deploy.engine.request import BuildReport, BuildRequest
from repvgg_deploy.errors import CheckFailed, UserError

from .at_work import PATIENCE

pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx, which this platform lacks")

Say = Callable[[str, str], None]


def silent(severity: str, message: str) -> None:
    pass


def save(path: Path, operator: str = "Relu", shape: list[Any] | None = None, **also: Any) -> Path:
    """A Conv without bias and one more node, for inputs of any batch."""
    value = helper.make_tensor_value_info
    size = ["n", 1, 8, 8] if shape is None else shape
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="first"),
        helper.make_node(operator, ["y"], ["z"], name="second", **also),
    ]
    weights = [helper.make_tensor("w", TensorProto.FLOAT, [2, 1, 3, 3], [0.5] * 18)]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, size)],
        [value("z", TensorProto.FLOAT, None)],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nobody", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def build(path: Path, say: Say = silent, **options: Any) -> BuildReport:
    request = BuildRequest(
        "tensorrt_rtx", str(path), str(path.with_name("engine")), "fp32", BuildOptions(**options)
    )
    return build_in_process(request, say)


def test_a_build(tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []
    report = build(save(tmp_path / "m.onnx"), lambda *said: heard.append(said), targets=("sm86",))
    assert (tmp_path / "engine").stat().st_size > 1000
    assert report.targets == ["sm86"]
    assert report.inputs == [{"name": "x", "dtype": "fp32", "shape": [-1, 1, 8, 8]}]
    assert report.outputs == [{"name": "z", "dtype": "fp32", "shape": [-1, 2, 6, 6]}]
    assert report.layers == [
        {
            "name": "first",
            "kind": "convolution",
            "input": "fp32",
            "weight": "fp32",
            "output": "fp32",
        }
    ]
    assert {severity for severity, _ in heard} >= {"verbose", "info"}


@pytest.mark.parametrize("read", ["Float", "Half", "N/A due to dynamic shapes"])
def test_the_finished_engine_is_asked_where_a_gpu_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """The builder is real, the runtime is not: it would need the GPU."""
    import tensorrt_rtx

    layer = {"Name": "first", "ParameterType": "Convolution", "Inputs": [{"Format/Datatype": read}]}
    inspector = SimpleNamespace(
        get_engine_information=lambda format: json.dumps({"Layers": [layer]})
    )
    engine = SimpleNamespace(
        create_engine_inspector=lambda: inspector, create_execution_context=lambda: None
    )
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: engine)
    monkeypatch.setattr(tensorrt_rtx, "Runtime", lambda logger: runtime)
    monkeypatch.setattr(engine_build, "this_gpu", lambda: Gpu("NVIDIA L4", "sm89", 1, "13.0"))
    heard: list[str] = []
    onnx_path, to = save(tmp_path / "m.onnx"), tmp_path / "engine"
    request = BuildRequest("tensorrt_rtx", str(onnx_path), str(to), "fp32", BuildOptions())
    if read == "Half":
        with pytest.raises(CheckFailed, match="the finished engine is not of it: first reads fp16"):
            engine_build.build(request, silent)
        return
    report = engine_build.build(request, lambda severity, message: heard.append(message))
    assert report.inspected is not None
    assert report.inspected[0]["inputs"] == (["fp32"] if read == "Float" else [])
    assert any("names no types" in message for message in heard) == (read != "Float")


def test_the_building_process_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import repvgg_deploy.engine.worker, sys; assert not {'torch', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_file_of_the_working_folder_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("json", "tensorrt_rtx", "repvgg_deploy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the folder')")
    assert build(save(tmp_path / "m.onnx")).layers


def test_an_interrupt_ends_the_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []

    def interrupt(severity: str, message: str) -> None:
        raise KeyboardInterrupt

    _watch(monkeypatch, started)
    with pytest.raises(KeyboardInterrupt):
        build(save(tmp_path / "m.onnx"), interrupt)
    assert started[0].returncode is not None
    assert not (tmp_path / "engine").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (signal.SIGKILL, "the builder was killed, most likely because memory ran out"),
        (signal.SIGSEGV, r"TensorRT's builder crashed \(SIGSEGV\)"),
    ],
)
def test_a_builder_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, sentence: str
) -> None:
    started: list[subprocess.Popen[str]] = []
    _watch(monkeypatch, started)

    def strike(severity: str, message: str) -> None:
        os.kill(started[0].pid, number)

    with pytest.raises(UserError, match=sentence):
        build(save(tmp_path / "m.onnx"), strike)


def _watch(monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[str]]) -> None:
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(process.subprocess, "Popen", start)


def test_a_python_that_cannot_start_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_START", "raise SystemExit('no such package')")
    with pytest.raises(UserError, match='ended with code 1; its last words: "no such package"'):
        build(save(tmp_path / "m.onnx"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_builder_that_dies_amid_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'import os; input(); os.write(1, b\'{"says": ["in\'); os.kill(os.getpid(), 9)'
    monkeypatch.setattr(process, "_START", code)
    with pytest.raises(UserError, match="the builder was killed"):
        build(save(tmp_path / "m.onnx"))


def test_the_builder_ends_with_its_parent(tmp_path: Path) -> None:
    """Its stdin closes when the parent dies, however that happens."""
    request = BuildRequest(
        "tensorrt_rtx", str(save(tmp_path / "m.onnx")), str(tmp_path / "e"), "fp32", BuildOptions()
    )
    code = (
        "import repvgg_deploy.engine.worker as w, time;"
        "w.build = lambda request, say: time.sleep(3600); w.main()"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True)
    assert worker.stdin is not None
    worker.stdin.write(json.dumps(asdict(request)) + "\n")
    worker.stdin.close()
    assert worker.wait(timeout=PATIENCE) == 1


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"operator": "Nonsense", "domain": "nobody"}, "the Nonsense node 'second'"),
        ({"shape": ["n", 1, "h", 8]}, r"m\.onnx: .* only the batch, the first dimension, may be"),
    ],
)
def test_models_that_cannot_be_built(tmp_path: Path, model: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build(save(tmp_path / "m.onnx", **model))
    assert not (tmp_path / "engine").exists()


def test_a_shape_beyond_int64_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", shape=[2**40, 1, 2**40, 8])
    with pytest.raises(UserError, match=r"m\.onnx"):
        build(path)


def test_the_wrong_precision_fails_the_check(tmp_path: Path) -> None:
    request = BuildRequest(
        "tensorrt_rtx", str(save(tmp_path / "m.onnx")), str(tmp_path / "e"), "fp16", BuildOptions()
    )
    with pytest.raises(CheckFailed, match="first reads fp32, weighs with fp32 and writes fp32"):
        build_in_process(request, silent)


NET = "<ir_version: 10, opset_import: ['' : 21]> g"


def parsed(path: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(text.replace("'", '"')), path)
    return path


def test_a_model_without_inputs_takes_no_profile(tmp_path: Path) -> None:
    text = f"{NET} () => (float[1,1,1,1] y) <float[1,1,1,1] x = {{1}}> {{ y = Conv(x, x) }}"
    with pytest.raises(UserError, match=r"m\.onnx: --profile has no effect: .* takes no input"):
        build(parsed(tmp_path / "m.onnx", text), profiles=(Profile(1, 2, 3),))


def build_as(path: Path, precision: str) -> BuildReport:
    options = BuildOptions(targets=("sm89",))
    request = BuildRequest("tensorrt_rtx", str(path), str(path) + ".e", precision, options)
    return build_in_process(request, silent)


#: x, quantized on both sides of what stands between.
QUANTIZED = """q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
  wd = DequantizeLinear(w, s, z)"""
SCALE = "float s = {0.5}, int8 z = {0}"


@pytest.mark.parametrize(
    "body",
    [
        f"(float[n,2,8] x) => (float[n,1,8] y) <int8[1,2,1] w = {{1, 2}}, {SCALE}> "
        f"{{ {QUANTIZED} y = Conv(d, wd) }}",  # TensorRT makes it two-dimensional
        f"(float[n,2,8,8] x) => (float[n,1,8,8] y) <int8[1,2,1,1] w = {{1, 2}}, {SCALE}> "
        f"{{ {QUANTIZED} i = Identity(d) y = Conv(i, wd) }}",
        f"(float[n,6,2] x) => (float[n,6,1] y) <int8[2,1] w = {{1, 2}}, {SCALE}> "
        f"{{ {QUANTIZED} y = MatMul(d, wd) }}",
    ],
)
def test_what_moves_no_value_hides_no_quantization(tmp_path: Path, body: str) -> None:
    report = build_as(parsed(tmp_path / "m.onnx", f"{NET} {body}"), "int8")
    assert [(row["input"], row["weight"]) for row in report.layers] == [("int8", "int8")]


def test_an_einsum_is_a_matrix_product(tmp_path: Path) -> None:
    text = (
        f"{NET} (float[n,1,8,8] x) => (float[n,1,8,8] y)"
        "<float[1,1,1,1] k = {1}, float[1,1] m = {1}> { c = Conv(x, k) h = Cast<to=10>(c)"
        " mh = Cast<to=10>(m) e = Einsum<equation='nchw,cd->ndhw'>(h, mh) y = Cast<to=1>(e) }"
    )
    with pytest.raises(CheckFailed, match="reads fp16, weighs with fp16 and writes fp16"):
        build_as(parsed(tmp_path / "m.onnx", text), "fp32")


def test_turing_is_left_out_for_a_float32_product_of_quantized_inputs(tmp_path: Path) -> None:
    text = (
        f"{NET} (float[n,2] x) => (float[n,1] y) <int8[2,1] w = {{1, 2}}, {SCALE}> "
        f"{{ {QUANTIZED} y = MatMul(d, wd) }}"
    )
    path = parsed(tmp_path / "m.onnx", text)
    request = BuildRequest("tensorrt_rtx", str(path), str(path) + ".e", "int8", BuildOptions())
    targets = build_in_process(request, silent).targets
    assert "sm89" in targets
    assert "sm75" not in targets


def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    """/dev/full takes no byte; the caller, who owns the file, puts it in words."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    request = BuildRequest(
        "tensorrt_rtx", str(save(tmp_path / "m.onnx")), "/dev/full", "fp32", BuildOptions()
    )
    with pytest.raises(OSError, match="No space left"):
        build_in_process(request, silent)


def test_models_quantized_by_onnx_runtimes_own_operators(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    path = save(tmp_path / "m.onnx")
    quantize_dynamic(path, tmp_path / "dynamic.onnx")
    with pytest.raises(UserError, match=r"DynamicQuantizeLinear at .* ONNX Runtime's own way"):
        build(tmp_path / "dynamic.onnx")
