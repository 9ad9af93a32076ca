"""verify of a model's folder: hashes, lineage, stored proofs, and the proofs again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from repvgg_deploy.engine import flavour
from repvgg_deploy.files import sha256_file
from repvgg_deploy.sidecar import sidecar_path
from repvgg_deploy.steps.chain_proofs import stored_proof

from .conftest import Cli
from .helpers import GOLDEN, golden

pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx, which this platform lacks")
FOLDER = Path("engines/ckpt")
FUSED, MODEL, ENGINE = (
    FOLDER / "fused.safetensors",
    FOLDER / "fp16.onnx",
    FOLDER / "fp16.rtx.engine",
)


@pytest.fixture
def chain(cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A checkpoint, its fused weights, an ONNX model and an engine."""
    monkeypatch.setattr(flavour, "this_gpu", lambda: None)
    assert cli("fuse", checkpoint).code == 0
    assert cli("export", "--trt", "fp16", "--size", "32").code == 0
    return cli


def checks(cli: Cli, *arguments: object, code: int = 0) -> dict[tuple[str, str], bool | None]:
    """What each check of each file came to."""
    result = cli("verify", *arguments, "--json")
    assert result.code == code, result.err
    found = json.loads(result.out)
    assert found["passed"] == (code == 0)
    return {(check["file"], check["kind"]): check["passed"] for check in found["checks"]}


def change_sidecar(path: Path, **changes: object) -> None:
    sidecar = sidecar_path(path)
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **changes}))


def sidecar(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(sidecar_path(path).read_text())
    return data


@pytest.mark.parametrize("arguments", [(), ("engines/ckpt",), ("--model", "ckpt")])
def test_all_is_well(chain: Cli, arguments: tuple[object, ...]) -> None:
    kinds = ("hash", "lineage", "stored proof", "proof")
    expected: dict[tuple[str, str], bool | None] = {
        (path.name, kind): True for path in (FUSED, MODEL, ENGINE) for kind in kinds
    }
    expected[ENGINE.name, "stored proof"] = expected[ENGINE.name, "proof"] = None
    assert checks(chain, *arguments) == expected
    result = chain("verify", *arguments)
    assert "fp16.rtx.engine, proof: the engine does not load here: CUDA finds no GPU" in result.err
    assert "10 checks passed, 2 checks not possible here" in result.err


@pytest.mark.parametrize("path", [FUSED, MODEL, ENGINE])
def test_a_changed_byte_is_found(chain: Cli, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert checks(chain, code=3)[path.name, "hash"] is False
    result = chain("verify")
    assert f"{path}: hash: is not the file that {path.name}.json describes" in result.err


def test_an_onnx_model_and_sidecar_that_agree_but_not_with_the_weights(chain: Cli) -> None:
    model = onnx.load(MODEL)
    bias = next(t for t in model.graph.initializer if t.name == "stage1.0.rbr_reparam.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(model, MODEL)
    change_sidecar(MODEL, sha256=sha256_file(MODEL))
    found = checks(chain, code=3)
    assert found[MODEL.name, "hash"] is True
    assert found[MODEL.name, "stored proof"] is True
    assert found[MODEL.name, "proof"] is False
    assert found[ENGINE.name, "lineage"] is False  # of the model as it was


def test_an_engine_of_an_earlier_export(chain: Cli) -> None:
    assert chain("export", "--onnx", "--fp16", "--size", "64").code == 0
    found = checks(chain, code=3)
    assert (found[MODEL.name, "lineage"], found[ENGINE.name, "lineage"]) == (True, False)
    assert found[ENGINE.name, "proof"] is None
    assert "fp16.onnx has changed since fp16.rtx.engine was made from it" in chain("verify").err


@pytest.mark.parametrize("changes", [{"targets": ["sm89"]}, {"version": "1.6.0.1"}])
def test_a_sidecar_that_contradicts_the_engines_header(
    chain: Cli, changes: dict[str, object]
) -> None:
    change_sidecar(ENGINE, **changes)
    assert checks(chain, code=3)[ENGINE.name, "hash"] is False
    inspected = chain("inspect", ENGINE)
    assert inspected.code == 1
    for said in (inspected.err, chain("verify").err):
        assert "but the engine itself says" in said


def test_a_sidecar_of_another_kind_of_file(chain: Cli) -> None:
    shutil.copy(sidecar_path(MODEL), sidecar_path(ENGINE))
    assert checks(chain, code=3)[ENGINE.name, "hash"] is False
    assert "does not belong there" in chain("inspect", ENGINE).err


def test_a_lineage_that_leads_elsewhere(chain: Cli) -> None:
    steps = sidecar(ENGINE)["lineage"]
    change_sidecar(ENGINE, lineage=[steps[0], {"path": "other.pth", "sha256": "0" * 64}])
    assert checks(chain, code=3)[ENGINE.name, "lineage"] is False


def test_a_folder_that_was_carried_elsewhere(chain: Cli, checkpoint: Path) -> None:
    shutil.copytree(FOLDER, "carried")
    checkpoint.unlink()
    found = checks(chain, "carried")
    assert found[FUSED.name, "lineage"] is None
    assert found[FUSED.name, "proof"] is None
    assert found[MODEL.name, "proof"] is True
    assert f"{checkpoint.resolve()} is not here" in chain("verify", "carried").err


def test_a_checkpoint_that_changed(chain: Cli, checkpoint: Path) -> None:
    shutil.copy(golden("official_plain"), checkpoint)
    assert checks(chain, code=3)[FUSED.name, "lineage"] is False


@pytest.mark.parametrize(
    "change",
    [
        lambda proof: proof["checks"][0].update(ratio=9.0),
        lambda proof: proof["checks"][0].update(ratio=None),
        lambda proof: proof["checks"][0].update(ratio=float("-inf")),
        lambda proof: proof["checks"][0].update(ratio=9.0, limit=10.0),
        lambda proof: proof["checks"][0].update(passed=False),
        lambda proof: proof.update(passed=False),
        lambda proof: proof.update(checks=[]),
        lambda proof: proof.clear(),
    ],
)
def test_a_stored_proof_has_to_hold(chain: Cli, change: Callable[[Any], None]) -> None:
    proof = sidecar(MODEL)["proof"]
    change(proof)
    change_sidecar(MODEL, proof=proof)
    assert checks(chain, code=3)[MODEL.name, "stored proof"] is False


def test_what_was_not_proved_is_no_failure(cli: Cli, checkpoint: Path) -> None:
    assert cli("fuse", checkpoint, "--no-verify").code == 0
    found = checks(cli)
    assert found[FUSED.name, "stored proof"] is None
    assert found[FUSED.name, "proof"] is True


def test_a_network_fused_elsewhere(cli: Cli) -> None:
    assert cli("fuse", golden("official_deployed")).code == 0
    found = checks(cli)
    assert found["fused.safetensors", "lineage"] is True
    assert found["fused.safetensors", "proof"] is None


def test_a_fused_graph(cli: Cli) -> None:
    shutil.copy(golden("official_plain").with_suffix(".onnx"), "net.onnx")
    assert cli("fuse", "net.onnx").code == 0
    assert set(checks(cli, "engines/net").values()) == {True}


def test_blocks_of_any_model(cli: Cli) -> None:
    assert cli("fuse", GOLDEN / "families/yolov7_repconv.pth").code == 0
    assert set(checks(cli).values()) == {True}


def test_files_without_their_other_half(chain: Cli) -> None:
    sidecar_path(ENGINE).unlink()
    MODEL.unlink()
    found = checks(chain, code=3)
    assert found[MODEL.name, "hash"] is False
    assert found[ENGINE.name, "hash"] is None
    assert "fp16.rtx.engine, hash: it has no sidecar, so nothing is known" in chain("verify").err


@pytest.mark.parametrize(
    ("change", "file", "says"),
    [
        (
            lambda: swap(ENGINE, FOLDER / "fp32.rtx.engine"),
            "fp32.rtx.engine",
            "that of fp16.rtx",
        ),
        (
            lambda: swap(ENGINE, FOLDER / "fp16.rtx.ENGINE"),
            "fp16.rtx.ENGINE",
            "that of fp16.rtx",
        ),
        (lambda: change_sidecar(MODEL, precision="fp32"), MODEL.name, "says fp32, but: fp16"),
        (
            lambda: change_sidecar(ENGINE, precision="int8"),
            ENGINE.name,
            "says int8, but: no",
        ),
        (
            lambda: change_sidecar(FUSED, reading={"of": 1}),
            FUSED.name,
            "how the checkpoint was",
        ),
        (lambda: change_sidecar(FUSED, reading={"eps": "x"}), FUSED.name, "eps is no float"),
    ],
)
def test_a_sidecar_that_says_what_is_not(
    chain: Cli, change: Callable[[], None], file: str, says: str
) -> None:
    change()
    assert checks(chain, code=3)[file, "hash"] is False
    assert says in chain("verify").err


def test_an_engine_may_get_a_name_of_its_own(chain: Cli) -> None:
    """As docs/serving.md has it, for engines for several GPUs in one folder."""
    swap(ENGINE, FOLDER / "fp16.a10.engine")
    assert checks(chain)["fp16.a10.engine", "hash"] is True


def swap(path: Path, name: Path) -> None:
    """Rename a file and its sidecar."""
    path.rename(name)
    sidecar_path(path).rename(sidecar_path(name))


def test_a_model_without_fused_weights(cli: Cli) -> None:
    assert cli("fuse", golden("official_plain").with_suffix(".onnx"), "--name", "net").code == 0
    assert checks(cli, "--model", "net")["fused.onnx", "proof"] is True
    assert "gone: no such folder" in cli("verify", "--model", "gone").err


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_the_data_file_of_a_fused_graph(cli: Cli, change: str) -> None:
    model = onnx.load(golden("official_plain").with_suffix(".onnx"))
    onnx.save(model, "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    assert cli("fuse", "net.onnx").code == 0
    assert set(checks(cli, "engines/net").values()) == {True}
    (data,) = Path("engines/net").glob("*.data")
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.unlink() if change == "gone" else data.write_bytes(content)
    assert checks(cli, "engines/net", code=3) == {("fused.onnx", "hash"): False}


@pytest.mark.parametrize("gone", [MODEL, FUSED])
def test_an_engine_whose_origin_lies_elsewhere_is_no_failure(chain: Cli, gone: Path) -> None:
    gone.unlink()
    sidecar_path(gone).unlink()
    assert checks(chain, FOLDER)[ENGINE.name, "lineage"] is None


def test_lineage_beyond_the_checkpoint(chain: Cli) -> None:
    steps = sidecar(ENGINE)["lineage"]
    change_sidecar(ENGINE, lineage=[*steps, {"path": "x", "sha256": "0" * 64}])
    assert checks(chain, code=3)[ENGINE.name, "lineage"] is False


def test_a_folder_without_sidecars(chain: Cli) -> None:
    for path in FOLDER.glob("*.json"):
        path.unlink()
    result = chain("verify", "engines/ckpt")
    assert result.code == 1
    assert "none of its files has a sidecar, so nothing can be checked" in result.err


def test_words_of_a_sidecar_do_not_pass_for_ours(chain: Cli) -> None:
    change_sidecar(MODEL, source={"path": "x\nok  all", "sha256": "0" * 64})
    assert "x\\nok  all is not here" in chain("verify").err


@pytest.mark.parametrize("path", ["../../outside.onnx", "/dev/zero", "hf:nonsense"])
def test_hostile_sources_are_only_hashed(chain: Cli, path: str) -> None:
    """What is no plain file is not opened, and nothing is written or run."""
    Path("outside.onnx").write_text("not a model")
    change_sidecar(ENGINE, source={"path": path, "sha256": "0" * 64}, lineage=[])
    result = chain("verify")
    assert "Traceback" not in result.err
    assert result.code == (3 if "outside" in path else 0)


def test_nothing_to_check(cli: Cli) -> None:
    Path("empty").mkdir()
    for folder, sentence in (
        ("empty", "empty: holds nothing that this tool made"),
        ("gone", "give two files, or one model's folder"),
    ):
        result = cli("verify", folder)
        assert result.code in (1, 2)
        assert sentence in result.err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["engines/ckpt", "--model", "ckpt"], 2, "--model has no effect here"),
        (["engines/ckpt", "--eps", "1e-3"], 2, "--eps has no effect here"),
        (["engines/ckpt", "--images", "gone.npz"], 1, "gone.npz: no such file"),
    ],
)
def test_options(chain: Cli, arguments: list[str], code: int, sentence: str) -> None:
    result = chain("verify", *arguments)
    assert result.code == code
    assert sentence in result.err


def test_proofs_nested_deeply_do_not_matter() -> None:
    inner: list[Any] = []
    for _ in range(10_000):
        inner = [inner]
    record: Any = SimpleNamespace(proof={"passed": True, "checks": inner})
    assert stored_proof(record) == (False, "it does not say that it passed")


def test_data_files_of_the_model_that_an_engine_was_built_from(cli: Cli) -> None:
    shutil.copy(golden("official_plain").with_suffix(".onnx"), "plain.onnx")
    model = onnx.load("plain.onnx")
    onnx.save(model, "net.onnx", save_as_external_data=True, location="net.data")
    assert cli("export", "net.onnx", "--trt", "fp32").code == 0
    engine = Path("engines/net/net.rtx.engine")
    assert sidecar(engine)["data"] == {"net.data": sha256_file(Path("net.data"))}
    assert checks(cli, engine.parent)[engine.name, "lineage"] is True
    content = bytearray(Path("net.data").read_bytes())
    content[100] ^= 1
    Path("net.data").write_bytes(content)
    assert checks(cli, engine.parent, code=3)[engine.name, "lineage"] is False
    for name in ("../net.data", "/dev/zero", "gone.data"):
        change_sidecar(engine, data={name: "0" * 64})
        assert checks(cli, engine.parent, code=3)[engine.name, "lineage"] is False
