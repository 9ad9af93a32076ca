"""repvgg-deploy fuse: what it makes, and what it says to bad input."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from repvgg_deploy.checkpoint.save import save_state
from repvgg_deploy.errors import UserError
from repvgg_deploy.models.build import build
from repvgg_deploy.models.infer import infer
from repvgg_deploy.sidecar import SCHEMA
from repvgg_deploy.steps import fuse as fuse_step
from repvgg_deploy.steps.weights import Reading
from repvgg_deploy.workspace import Workspace

from .at_work import PATIENCE, stopped_at
from .conftest import Cli
from .helpers import MANIFEST, TRAIN_NAMES, golden, golden_arrays, tiny_spec, training_state
from .test_checkpoint import BAD_FILES, write_bad_file


@pytest.mark.parametrize("name", TRAIN_NAMES)
def test_golden_checkpoints(cli: Cli, name: str) -> None:
    result = cli("fuse", golden(name), "--json")
    assert result.code == 0, result.err
    weights = load_file(f"engines/{name}/fused.safetensors")
    spec, form = infer(weights, 1e-5)
    assert form == "deploy"
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    arrays = golden_arrays(name)
    with torch.inference_mode():
        output = build(weights, spec, "deploy")(torch.from_numpy(arrays["x"])).numpy()
    assert np.abs(output - arrays["y64"]).max() <= 4 * np.abs(arrays["y"] - arrays["y64"]).max()

    record = json.loads(result.out)
    sidecar = json.loads(Path(f"engines/{name}/fused.safetensors.json").read_text())
    assert sidecar == {"schema": SCHEMA, **record}
    assert record["source"]["sha256"] == MANIFEST[name]["sha256"]
    assert record["proof"]["passed"] is True
    assert record["tool"].startswith("repvgg-deploy ")
    assert "fused and proved" in result.err
    assert json.loads(Path("engines/current.json").read_text()) == {"model": name}


def test_auxiliary_heads_are_named_as_left_out(cli: Cli) -> None:
    result = cli("fuse", golden("repvggplus_pse"), "--json")
    assert "dropped: 3 auxiliary heads" in result.err
    heads = ["stage1_aux", "stage2_aux", "stage3_first_aux"]
    assert json.loads(result.out)["assumptions"]["dropped"] == heads


def test_an_already_fused_checkpoint_is_said_to_be_so(cli: Cli) -> None:
    result = cli("fuse", golden("official_deployed"))
    assert result.code == 0
    assert "already fused" in result.err
    before = torch.load(golden("official_deployed"), weights_only=True)
    after = load_file("engines/official_deployed/fused.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_pth_has_the_official_deploy_keys(cli: Cli) -> None:
    assert cli("fuse", golden("official_plain"), "--pth").code == 0
    state = torch.load("engines/official_plain/fused.pth", weights_only=True)
    assert sorted(state) == sorted(MANIFEST["official_plain"]["peer_deploy_keys"])
    safe = load_file("engines/official_plain/fused.safetensors")
    assert all(torch.equal(state[key], safe[key]) for key in safe)


def test_safetensors_in(cli: Cli, tmp_path: Path) -> None:
    save_file(training_state(), tmp_path / "m.safetensors")
    assert cli("fuse", "m.safetensors", "--name", "mine").code == 0
    assert Path("engines/mine/fused.safetensors").exists()


def test_fusing_again_gives_the_same_bytes(cli: Cli, checkpoint: Path) -> None:
    cli("fuse", checkpoint)
    first = Path("engines/ckpt/fused.safetensors").read_bytes()
    assert cli("fuse", checkpoint, "--no-verify").code == 0
    assert Path("engines/ckpt/fused.safetensors").read_bytes() == first


def test_without_a_proof_it_says_so(cli: Cli, checkpoint: Path) -> None:
    result = cli("fuse", checkpoint, "--no-verify", "--json")
    assert "NOT proved" in result.err
    assert json.loads(result.out)["proof"] is None


def test_real_images(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", x=np.random.default_rng(0).random((3, 3, 40, 48)))
    result = cli("fuse", checkpoint, "--images", "images.npz", "--json")
    assert result.code == 0
    assert json.loads(result.out)["proof"]["end_to_end"]["samples"] == 3


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_text("x"), "is no .npy file and no .npz file with an array x"),
        (lambda path: np.savez(path, images=np.ones(3)), "no .npz file with an array x"),
        (
            lambda path: np.savez(path, x=np.ones((2, 1, 8, 8))),
            r"takes images [N, 3, height, width]",
        ),
        (lambda path: np.savez(path, x=np.ones((0, 3, 8, 8))), "at least one"),
        (lambda path: np.savez(path, x=np.full((1, 3, 8, 8), np.nan)), "NaN or infinity"),
        (lambda path: np.savez(path, x=np.array([{}])), "Object arrays cannot be loaded"),
    ],
)
def test_bad_images(
    cli: Cli, checkpoint: Path, tmp_path: Path, write: object, sentence: str
) -> None:
    write(tmp_path / "images.npz")  # type: ignore[operator]
    result = cli("fuse", checkpoint, "--images", "images.npz")
    assert result.code == 1
    assert sentence in result.err
    assert not Path("engines").exists()


def damaged(change: str) -> dict[str, torch.Tensor]:
    state = training_state()
    if change == "no blocks":
        return {"conv1.weight": torch.ones(3, 3, 3, 3), "fc.weight": torch.ones(2, 3)}
    if change == "branch missing":
        return {k: v for k, v in state.items() if not k.startswith("stage2.0.rbr_1x1.")}
    if change == "identity missing":
        return {k: v for k, v in state.items() if not k.startswith("stage3.1.rbr_identity.")}
    if change == "shapes":
        return {**state, "stage2.0.rbr_1x1.conv.weight": torch.ones(8, 3, 1, 1)}
    if change == "mixture":
        return {**state, "stage2.0.rbr_reparam.weight": torch.ones(8, 4, 3, 3)}
    if change == "partly fused":
        rest = {k: v for k, v in state.items() if not k.startswith("stage2.0.")}
        return {**rest, "stage2.0.rbr_reparam.weight": torch.ones(8, 4, 3, 3)}
    raise AssertionError(change)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("no blocks", "no re-parameterizable blocks found"),
        ("branch missing", "rbr_1x1.conv.weight is missing"),
        ("identity missing", "stage3.1: rbr_identity is missing"),
        ("shapes", "block stage2.0: the shapes of its branches do not fit together"),
        ("mixture", "block stage2.0: holds a fused convolution"),
        ("partly fused", "a mixture of fused"),
    ],
)
def test_networks_that_cannot_be_fused(
    cli: Cli, tmp_path: Path, change: str, sentence: str
) -> None:
    torch.save(damaged(change), tmp_path / "ckpt.pth")
    one_sentence(cli("fuse", "ckpt.pth"), "ckpt.pth", sentence)
    assert not Path("engines").exists()


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files(cli: Cli, tmp_path: Path, kind: str) -> None:
    write_bad_file(kind, tmp_path / "ckpt.pth")
    one_sentence(cli("fuse", "ckpt.pth"), "ckpt.pth", "")
    assert not Path("engines").exists()
    assert not Path("boom").exists()


def one_sentence(result: object, *parts: str) -> None:
    """Exit code 1, one line on stderr that holds ``parts``, nothing on stdout."""
    assert (result.code, result.out) == (1, "")  # type: ignore[attr-defined]
    line, *advice = result.err.strip().splitlines()  # type: ignore[attr-defined]
    assert len(advice) == (4 if "Python objects" in line else 0)
    assert line.startswith("Error: ")
    for part in parts:
        assert part in line


@pytest.mark.parametrize("option", ["--verify", "--no-verify"])
def test_weights_that_overflow_float32(cli: Cli, tmp_path: Path, option: str) -> None:
    state = training_state()
    state["linear.weight"] = state["linear.weight"].double() * 1e200
    torch.save(state, tmp_path / "ckpt.pth")
    result = cli("fuse", "ckpt.pth", option)
    assert result.code == 3
    assert "linear.weight does not fit into float32" in result.err
    assert not Path("engines").exists()


@pytest.mark.parametrize("option", ["--verify", "--no-verify"])
def test_trainable_parameters_and_averaged_counters(cli: Cli, tmp_path: Path, option: str) -> None:
    """What model.named_parameters() and weight averaging leave in checkpoints."""
    state = {
        key: torch.nn.Parameter(value) if value.is_floating_point() else value.float()
        for key, value in training_state().items()
    }
    torch.save(state, tmp_path / "ckpt.pth")
    result = cli("fuse", "ckpt.pth", option)
    assert result.code == 0, result.err


def test_hostile_block_numbers(cli: Cli, tmp_path: Path) -> None:
    state = {**training_state(), f"stage1.{'9' * 5000}.rbr_dense.conv.weight": torch.ones(1)}
    torch.save(state, tmp_path / "ckpt.pth")
    assert cli("fuse", "ckpt.pth").code == 1


def test_a_name_too_long_for_the_file_system(cli: Cli) -> None:
    one_sentence(cli("fuse", "x" * 5000), "cannot be read")


def test_two_checkpoints_of_one_name(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    cli("fuse", checkpoint)
    first = Path("engines/ckpt/fused.safetensors").read_bytes()
    (tmp_path / "other").mkdir()
    torch.save(training_state(seed=5), tmp_path / "other" / "ckpt.pth")
    one_sentence(cli("fuse", "other/ckpt.pth"), "another checkpoint", "--name")
    assert Path("engines/ckpt/fused.safetensors").read_bytes() == first
    assert cli("fuse", "other/ckpt.pth", "--name", "other").code == 0


def test_a_wrong_fusion_is_not_written(
    cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fuse_step.fuse_in_place

    def drop_the_bias(state: dict[str, torch.Tensor], *others: object, **options: bool) -> None:
        right(state, *others, **options)  # type: ignore[arg-type]
        state["stage3.1.rbr_reparam.bias"].zero_()

    monkeypatch.setattr(fuse_step, "fuse_in_place", drop_the_bias)
    result = cli("fuse", checkpoint)
    assert result.code == 3
    assert "stage3.1" in result.err
    assert "is not the training network" in result.err
    assert not Path("engines").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 1 MB of room; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small tmpfs needs root on Linux")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("pth", [False, True])
def test_disk_full(cli: Cli, tmp_path: Path, disk: Path, pth: bool) -> None:
    small, large = tmp_path / "small" / "m.pth", tmp_path / "m.pth"
    small.parent.mkdir()
    torch.save(training_state(), small)
    torch.save(training_state(tiny_spec(widths=(64, 64, 64, 128, 256))), large)
    assert cli("fuse", small, "--engines", disk).code == 0
    before = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
    result = cli("fuse", large, "--name", "large", "--engines", disk, *(["--pth"] if pth else []))
    one_sentence(result, "the disk is full")
    assert {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()} == before


def test_read_only_folder(cli: Cli, checkpoint: Path, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    one_sentence(cli("fuse", checkpoint, "--engines", disk), "read-only")


def test_interrupted_while_writing(
    cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("fuse", checkpoint)
    before = {path: path.read_bytes() for path in Path("engines").rglob("*") if path.is_file()}

    def half_then_interrupt(path: Path, state: object, suffix: str) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(fuse_step, "save_state", half_then_interrupt)
    result = cli("fuse", checkpoint)
    assert result.code == 1
    assert result.err.strip() == "Interrupted; nothing was left half-written."
    after = {path: path.read_bytes() for path in Path("engines").rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.parametrize(
    "place",
    ["torch._tensor", "repvgg_deploy.equivalence.proof:prove_fusion"],
    ids=["while torch is imported", "in the proof"],
)
def test_ctrl_c_in_a_real_process(tmp_path: Path, place: str) -> None:
    torch.save(training_state(), tmp_path / "ckpt.pth")
    with stopped_at(place, "fuse", "ckpt.pth", folder=tmp_path) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate("\n", timeout=PATIENCE)
    assert process.returncode == 1
    assert err.strip().splitlines()[-1] == "Interrupted; nothing was left half-written."
    assert "Traceback" not in err
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if "part" in name]


def test_what_belongs_to_no_block_passes_bit_for_bit(cli: Cli, tmp_path: Path) -> None:
    """RT-DETRv2 has infinity in decoder.anchors by design, YOLOv6 an empty buffer."""
    state = {f"backbone.{key}": value for key, value in training_state().items()}
    others = {
        "decoder.anchors": torch.tensor([1.0, float("inf"), float("nan")]),
        "empty": torch.zeros(0),
        "empty2": torch.zeros(0, 2),
        "bytes": torch.ones(3, dtype=torch.int8),
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
        "complex": torch.ones(3, dtype=torch.complex64),
        "variance.running_var": torch.tensor([-1.0]),
    }
    torch.save({**state, **others}, tmp_path / "ckpt.pth")
    result = cli("fuse", "ckpt.pth", "--pth")
    assert result.code == 0, result.err
    safe = load_file("engines/ckpt/fused.safetensors")
    for fused in (safe, torch.load("engines/ckpt/fused.pth", weights_only=True)):
        for key, value in others.items():
            assert fused[key].dtype == value.dtype
            assert fused[key].numel() == value.numel()
            assert fused[key].view(torch.uint8).tolist() == value.view(torch.uint8).tolist()
    assert cli("verify").code == 0


def test_nan_in_a_block_of_a_larger_model(cli: Cli, tmp_path: Path) -> None:
    state = {f"backbone.{key}": value for key, value in training_state().items()}
    state["neck.weight"] = torch.ones(2)
    state["backbone.stage1.0.rbr_1x1.bn.bias"][0] = float("nan")
    torch.save(state, tmp_path / "ckpt.pth")
    sentence = "'backbone.stage1.0.rbr_1x1.bn.bias' holds NaN"
    one_sentence(cli("fuse", "ckpt.pth"), "ckpt.pth", sentence)


def test_a_copy_of_other_weights_does_not_stay(cli: Cli, checkpoint: Path) -> None:
    assert cli("fuse", checkpoint, "--pth").code == 0
    assert cli("fuse", checkpoint, "--family", "repvgg", "--eps", "1e-3").code == 0
    assert sorted(os.listdir("engines/ckpt")) == ["fused.safetensors", "fused.safetensors.json"]


@pytest.mark.parametrize("obstacle", ["fused.pth", "fused.safetensors.json"])
def test_all_files_or_none(cli: Cli, checkpoint: Path, obstacle: str) -> None:
    Path("engines/ckpt", obstacle).mkdir(parents=True)
    one_sentence(cli("fuse", checkpoint, "--pth"), obstacle, "a folder stands there")
    assert os.listdir("engines/ckpt") == [obstacle]


@pytest.mark.parametrize("obstacle", ["ckpt/fused.pth", "ckpt/fused.pkl", "current.json"])
def test_folders_in_the_way_are_seen_before_anything_is_written(
    cli: Cli, checkpoint: Path, obstacle: str
) -> None:
    Path("engines", obstacle).mkdir(parents=True)
    one_sentence(cli("fuse", checkpoint), obstacle, "a folder stands there")
    assert not list(Path("engines").rglob("*.safetensors*"))


def test_what_cannot_be_written_as_one_file_leaves_no_other(
    cli: Cli, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = fuse_step.save_state

    def fail(path: Path, state: dict[str, torch.Tensor], suffix: str) -> None:
        if suffix == ".pth":
            raise KeyboardInterrupt
        right(path, state, suffix)

    monkeypatch.setattr(fuse_step, "save_state", fail)
    assert cli("fuse", checkpoint, "--pth").code == 1
    assert not os.path.exists("engines")


@pytest.mark.parametrize("eps", ["nan", "inf", "0", "-1e-5", "1.5", "small"])
def test_eps_that_is_none(cli: Cli, checkpoint: Path, eps: str) -> None:
    result = cli("fuse", checkpoint, "--eps", eps)
    assert result.code == 2
    assert f"{eps!r} is no number above 0 and up to 1." in result.err


def test_a_block_that_cannot_be_folded_is_named(checkpoint: Path, tmp_path: Path) -> None:
    """Python takes an eps that the command line refuses."""
    reading = Reading(eps=-10.0, family="repvgg")
    with pytest.raises(UserError, match=r"ckpt.pth: block stage0: .* variance \+ eps <= 0"):
        fuse_step.fuse_checkpoint(checkpoint, Workspace(tmp_path / "engines"), reading=reading)
    assert not (tmp_path / "engines").exists()


def test_a_type_that_safetensors_has_no_place_for(cli: Cli, tmp_path: Path) -> None:
    state = {f"backbone.{key}": value for key, value in training_state().items()}
    torch.save({**state, "fft": torch.ones(3, dtype=torch.complex128)}, tmp_path / "ckpt.pth")
    one_sentence(cli("fuse", "ckpt.pth", "--pth"), "'fft' is of type torch.complex128")
    assert not os.path.exists("engines")


def test_escape_codes_do_not_reach_the_terminal(cli: Cli) -> None:
    one_sentence(cli("fuse", "a\x1b[31m.pth"), r"a\x1b[31m.pth: no such file")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pkl"])
def test_others_may_read_what_the_umask_lets_them(suffix: str, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save_state(tmp_path / f"x{suffix}", {"a": torch.ones(2)}, suffix)
    finally:
        os.umask(before)
    expected = 0o666 if sys.platform == "win32" else 0o644
    assert stat.S_IMODE((tmp_path / f"x{suffix}").stat().st_mode) == expected
