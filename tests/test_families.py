"""Every family: recognised, fused under its own keys, equal to its own code base's conversion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from repvgg_deploy.checkpoint.load import load_checkpoint
from repvgg_deploy.equivalence.blocks import prove_blocks
from repvgg_deploy.errors import UserError
from repvgg_deploy.reparam.blocks import BN_LEAVES
from repvgg_deploy.reparam.families import FAMILIES as TABLE
from repvgg_deploy.reparam.find import find_blocks, pick_families
from repvgg_deploy.reparam.state_dict import fuse_in_place
from repvgg_deploy.steps.weights import Reading, WeightsFile, read_weights

from .conftest import Cli
from .helpers import GOLDEN

FAMILIES = GOLDEN / "families"
MANIFEST = json.loads((FAMILIES / "manifest.json").read_text())
#: A grouped QARepVGG block as wide as its input has the shapes of a dense one that widens; these
#: two are the former, which YOLOv6 itself never builds (docs/families.md).
UNTOLD = {(f"yolov6_qa_{v}", "backbone.ERBlock_3.0.rbr_reparam") for v in ("v1", "v2")}
CPU = torch.device("cpu")


def path_of(name: str) -> Path:
    return FAMILIES / (f"{name}.pkl" if name.startswith("basecls") else f"{name}.pth")


def options(name: str) -> list[str]:
    """V2 has the keys of V1, and a bare list of RepVGG blocks could be of several code bases."""
    asked = {"yolov6_qa_v2": "yolov6-qarepvgg-v2", "yolov6_blocks": "yolov6"}
    return ["--family", asked[name]] if name in asked else []


@pytest.mark.parametrize("name", MANIFEST)
def test_fuse_does_what_the_code_base_does(cli: Cli, name: str) -> None:
    result = cli("fuse", path_of(name), *options(name))
    assert result.code == 0, result.err
    assert f"batch-norm eps {MANIFEST[name]['eps']:g} " in result.err
    fused = load_file(f"engines/{name}/fused.safetensors")
    if keys := MANIFEST[name].get("peer_deploy_keys"):
        extra = {key for key in set(fused) - set(keys) if key.endswith("num_batches_tracked")}
        assert set(fused) - extra == set(keys)
    deployed = FAMILIES / "deployed" / path_of(name).name
    if deployed.exists():
        for key, theirs in load_checkpoint(deployed).state.items():
            if (name, key.rpartition(".")[0]) in UNTOLD:
                continue
            assert fused[key].shape == theirs.shape, key
            scale = float(theirs.abs().max()) if theirs.is_floating_point() else 1.0
            torch.testing.assert_close(fused[key], theirs, rtol=1e-4, atol=1e-5 * scale)
    assert cli("verify").code == 0


@pytest.mark.parametrize("name", MANIFEST)
def test_what_is_no_block_is_untouched(name: str) -> None:
    state = load_checkpoint(path_of(name)).state
    families = pick_families(options(name)[1] if options(name) else None)
    blocks = find_blocks(state, families, asked=bool(options(name))).blocks
    fused = dict(state)
    fuse_in_place(fused, blocks)
    assert blocks
    made = {key for block in blocks for key in block.fused_keys}
    assert all(fused[key] is state[key] for key in set(fused) & set(state) - made)


@pytest.mark.parametrize(
    "name", ["timm_repvgg", "timm_repvgg_se", "timm_repvgg_g4", "mmpretrain_repvgg", "qarepvgg"]
)
def test_whole_networks_of_other_code_bases_run_the_full_path(cli: Cli, name: str) -> None:
    assert cli("fuse", path_of(name)).code == 0
    exported = cli("export", "--onnx", "--size", 32)
    assert exported.code == 0, exported.err
    measured = cli("bench", "--duration", 0.1, "--runtime", "torch-cpu", "--size", 32)
    assert measured.code == 0, measured.err
    assert cli("verify").code == 0


def test_our_format_has_official_keys(cli: Cli) -> None:
    assert cli("fuse", path_of("timm_repvgg"), "--format", "ours").code == 0
    keys = load_file("engines/timm_repvgg/fused.safetensors")
    assert {"stage0.rbr_reparam.weight", "stage4.0.rbr_reparam.bias", "linear.bias"} <= set(keys)
    result = cli("fuse", path_of("yolov7_repconv"), "--format", "ours")
    assert result.code == 1
    assert "no whole RepVGG" in result.err


def test_two_families_fuse_together(cli: Cli, tmp_path: Path) -> None:
    state = load_checkpoint(path_of("yolov7_repconv")).state
    state = state | {
        f"encoder.{key}": value
        for key, value in load_checkpoint(path_of("apple_mobileone")).state.items()
    }
    save_file(state, tmp_path / "both.safetensors")
    result = cli("fuse", "both.safetensors")
    assert result.code == 0, result.err
    assert "yolov7: 4 RepConv, batch-norm eps 0.001" in result.err
    assert "mobileone: 13 MobileOneBlock, batch-norm eps 1e-05" in result.err


def test_keys_of_two_families_at_an_unknown_place_are_refused(cli: Cli, tmp_path: Path) -> None:
    state = load_checkpoint(path_of("yolov6_blocks")).state
    moved = {key.replace("backbone.", "features."): value for key, value in state.items()}
    torch.save(moved, tmp_path / "x.pth")
    refused = cli("fuse", "x.pth")
    assert refused.code == 1
    assert "--family repvgg (eps 1e-05) or --family yolov6 (eps 0.001)" in refused.err
    assert cli("fuse", "x.pth", "--family", "yolov6").code == 0
    assert "eps 0.001 (--eps)" in cli("fuse", "x.pth", "--eps", "1e-3").err


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(UserError, match="unknown; known are"):
        pick_families("repvg")


def test_the_moving_average_is_chosen(cli: Cli) -> None:
    path = path_of("rtdetr_repvgg")
    assert "ema, module" in cli("fuse", path).err
    averaged = load_file("engines/rtdetr_repvgg/fused.safetensors")
    assert cli("fuse", path, "--no-ema").code == 0
    raw = load_file("engines/rtdetr_repvgg/fused.safetensors")
    assert any(not torch.equal(raw[key], averaged[key]) for key in raw)
    assert "leave out --ema" in cli("fuse", path_of("yolov7_repconv"), "--ema").err


def _shifted(state: dict[str, Tensor], key: str) -> Tensor:
    return state[key].roll(1, dims=-1)


def _swapped(state: dict[str, Tensor], key: str) -> Tensor:
    return state[key].flip(0)


@pytest.mark.parametrize("fault", ["dropped branch", "eps", "shifted", "swapped", "no mean"])
@pytest.mark.parametrize("name", ["yolov7_repconv", "apple_mobileone", "timm_fastvit"])
def test_faults_are_caught(name: str, fault: str) -> None:
    state = dict(load_checkpoint(path_of(name)).state)
    blocks = find_blocks(state).blocks
    block = next(b for b in blocks if b.has_identity and b.kernel_size[0] > 1)
    wrong = dict(state)
    if fault == "dropped branch":
        norm = next(b for b in block.branches if b.kernel_key is None and b.steps).steps[0].name
        wrong[f"{norm}.weight"] = torch.zeros_like(state[f"{norm}.weight"])
    if fault == "no mean":
        means = [key for key in block.keys(state) if key.endswith("running_mean")]
        wrong[means[0]] = torch.zeros_like(state[means[0]])
    fuse_in_place(wrong, blocks, 1e-4 if fault == "eps" else None)
    weight = block.fused_keys[0]
    if fault == "shifted":
        wrong[weight] = _shifted(wrong, weight)
    if fault == "swapped":
        wrong[weight] = _swapped(wrong, weight)
    proof = prove_blocks(state, wrong, blocks, CPU)
    assert any(line.startswith(block.path) for line in proof.failures)


def test_tied_tensors_come_out_under_both_names(cli: Cli, tmp_path: Path) -> None:
    state = load_checkpoint(path_of("yolov7_repconv")).state
    state["head.a.weight"] = torch.arange(6.0).reshape(2, 3)
    state["head.b.weight"] = state["head.a.weight"]
    state["head.c.weight"] = state["head.a.weight"].T
    torch.save(state, tmp_path / "tied.pth")
    result = cli("fuse", "tied.pth", "--pth")
    assert result.code == 0, result.err
    for fused in (
        load_file("engines/tied/fused.safetensors"),
        torch.load("engines/tied/fused.pth"),
    ):
        for name in "abc":
            key = f"head.{name}.weight"
            assert torch.equal(fused[key], state[key])


def test_branches_that_stay_are_not_overwritten(cli: Cli) -> None:
    """RT-DETR keeps its branches, so their memory is not the fused kernel's to take."""
    state = load_checkpoint(path_of("rtdetr_repvgg")).state
    expected, fused = dict(state), {key: value.clone() for key, value in state.items()}
    blocks = find_blocks(state).blocks
    fuse_in_place(expected, blocks)
    fuse_in_place(fused, blocks, overwrite=True)
    assert any(block.family.keeps_branches for block in blocks)
    assert all(torch.equal(fused[key], expected[key]) for key in expected)


def test_an_identity_beside_a_batch_norm_needs_no_guess() -> None:
    """x - norm(x) + 0: the batch norm says that there are as many channels out as in."""
    norm = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 3.0}
    state = {f"m.norm.rbr_skip.{leaf}": torch.full((4,), value) for leaf, value in norm.items()}
    state |= {f"m.mixer.rbr_conv.0.bn.{leaf}": torch.full((4,), v) for leaf, v in norm.items()}
    state["m.mixer.rbr_conv.0.conv.weight"] = torch.zeros(4, 2, 3, 3)
    fuse_in_place(state, find_blocks(state).blocks, eps=1.0)
    kernel = state["m.reparam_conv.weight"]
    assert kernel[:, :, 1, 1].tolist() == [[0.5, 0], [0, 0.5], [0.5, 0], [0, 0.5]]


@pytest.mark.parametrize("name", MANIFEST)
def test_the_familys_own_eps_by_hand_changes_nothing(name: str) -> None:
    """--eps says nothing about whose blocks these are."""
    given = options(name)[1] if options(name) else None
    by_itself = read_weights(path_of(name), Reading(family=given))
    by_hand = read_weights(path_of(name), Reading(MANIFEST[name]["eps"], given))
    assert by_hand.blocks == by_itself.blocks
    assert by_hand.left == by_itself.left


@pytest.mark.parametrize("name", MANIFEST)
def test_the_family_by_name_changes_nothing(name: str) -> None:
    by_itself = read_weights(path_of(name)).blocks
    for family in {block.family.family for block in by_itself}:
        by_name = read_weights(path_of(name), Reading(family=family)).blocks
        assert by_name == [block for block in by_itself if block.family.family == family]


def test_a_familys_plain_layers_are_not_taken_out_of_other_blocks(cli: Cli, tmp_path: Path) -> None:
    state = {f"head.{k}": v for k, v in load_checkpoint(path_of("yolov7_repconv")).state.items()}
    state |= load_checkpoint(path_of("yolov6_rep_model")).state
    torch.save(state, tmp_path / "two.pth")
    result = cli("fuse", "two.pth", "--family", "yolov7")
    assert result.code == 0, result.err
    assert "yolov7: 4 RepConv" in result.err
    assert "is of yolov6, and --family asks for yolov7 alone" in result.err
    fused = load_file("engines/two/fused.safetensors")
    kept = [key for key in state if ".rbr_" in key and not key.startswith("head.")]
    assert kept
    assert all(torch.equal(fused[key], state[key]) for key in kept)


def test_heads_like_repvits_of_other_code_stay(tmp_path: Path) -> None:
    """LeViT has head.bn and head.l at the root, where RepViT never has them."""
    state = {f"head.bn.{leaf}": torch.ones(4) for leaf in BN_LEAVES}
    state |= {"head.l.weight": torch.ones(3, 4), "head.l.bias": torch.ones(3)}
    assert find_blocks(state).blocks == []
    moved = {f"head.{key}": value for key, value in state.items()}
    assert [block.path for block in find_blocks(moved).blocks] == ["head"]


def test_no_batch_norm_is_folded_through_a_squeeze_excitation() -> None:
    """YOLOv6 calls nonlinearity(bn(se(sum))), so there the batch norm has to stay."""
    folded = [f for f in TABLE if f.outer_norm and not f.keeps_outer_norm]
    assert {f.block for f in folded} == {"RepVggDw", "LinearAddBlock", "QARepVGGBlock"}
    # RepOpt-VGG's post_se follows its activation
    assert all("se" not in f.tail or f.before_outer_norm == "se" for f in folded)


@pytest.mark.parametrize("name", ["yolov6_qa_v1", "yolov6_qa_v2"])
def test_squeeze_excitation_and_the_batch_norm_after_it_stay(name: str) -> None:
    state = dict(load_checkpoint(path_of(name)).state)
    families = pick_families(options(name)[1] if options(name) else None)
    block = next(b for b in find_blocks(state, families).blocks if b.family.outer_norm)
    state[f"{block.path}.se.fc1.weight"] = torch.ones(2, block.out_channels, 1, 1)
    inside = (f"{block.path}.se.", f"{block.path}.bn.")
    kept = {key: tensor for key, tensor in state.items() if key.startswith(inside)}
    fused = dict(state)
    fuse_in_place(fused, [block])
    assert len(kept) >= 5
    assert all(fused[key] is tensor for key, tensor in kept.items())
    assert prove_blocks(state, fused, [block], CPU).passed


def rep_conv(path: str) -> dict[str, Tensor]:
    """RepConv as YOLOv9 and Ultralytics have it, with the batch norm of its identity."""
    state = {f"{path}.conv1.conv.weight": torch.ones(4, 4, 3, 3)}
    state[f"{path}.conv2.conv.weight"] = torch.ones(4, 4, 1, 1)
    for name in ("conv1.bn", "conv2.bn", "bn"):
        state |= {f"{path}.{name}.{leaf}": torch.ones(4) for leaf in BN_LEAVES}
    return state


def read(tmp_path: Path, state: dict[str, Tensor], **reading: object) -> WeightsFile:
    torch.save(state, tmp_path / "x.pth")
    return read_weights(tmp_path / "x.pth", Reading(**reading))  # type: ignore[arg-type]


def test_no_block_is_taken_for_a_part_of_it(tmp_path: Path) -> None:
    """RT-DETRv2's block lacks the batch norm of the identity, and has the rest of the names."""
    there = read(tmp_path, rep_conv("stages.0.b"))
    assert there.blocks == []
    assert "--family yolov9 takes that" in there.left["stages.0.b"]
    by_name = read(tmp_path, rep_conv("stages.0.b"), family="yolov9")
    assert [len(block.branches) for block in by_name.blocks] == [3]
    assert read(tmp_path, rep_conv("enc.0"), family="rtdetrv2").blocks == []
    assert read(tmp_path, rep_conv("enc.0"), eps=1e-3).blocks == []
    scaled = read(tmp_path, {**rep_conv("model.0"), "model.0.alpha": torch.ones(1)})
    assert "alpha" not in {key for b in scaled.blocks for key in b.keys(scaled.checkpoint.state)}


def test_layers_in_a_row_are_no_branches(tmp_path: Path) -> None:
    """A 3x3 and then a 1x1 have the names that two parallel ones have elsewhere."""
    state = load_checkpoint(GOLDEN / "official_plain.pth").state
    row = {key: value for key, value in rep_conv("head").items() if not key.startswith("head.bn")}
    for eps in (None, 1e-5):
        blocks = read(tmp_path, state | row, eps=eps).blocks
        assert {block.family.family for block in blocks} == {"repvgg"}
        assert len(blocks) == 9


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("encoder.pos_enc", (64, 64)),  # a linear layer
        ("encoder.pos_enc", (100, 64)),  # an embedding
        ("pos_emb.pos_enc", (64, 2, 1, 1)),
        ("pos_emb.pos_enc", (64, 64)),
        ("network.0.pe", (64, 3, 7, 7)),  # a patch embedding
        ("patch.pe", (64, 1, 7, 7)),
    ],
)
def test_layers_of_the_names_of_position_encodings_stay(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    state = {f"{name}.weight": torch.ones(shape), f"{name}.bias": torch.ones(64)}
    assert read(tmp_path, state).blocks == []


def test_a_kernel_of_three_dimensions_is_no_grouped_one(tmp_path: Path) -> None:
    state = {"b.conv_kxk.0.conv.weight": torch.ones(6, 1, 3, 3, 3)}
    for name in ("b.conv_kxk.0.bn", "b.identity"):
        state |= {f"{name}.{leaf}": torch.ones(6) for leaf in BN_LEAVES}
    weights = read(tmp_path, state)
    assert weights.blocks == []
    assert "3-D convolution" in weights.left["b"]


@pytest.mark.parametrize("number", ["0", "1"])
def test_a_numbered_branch_that_is_missing_leaves_the_block(tmp_path: Path, number: str) -> None:
    state = load_checkpoint(path_of("apple_mobileone")).state
    kept = {k: v for k, v in state.items() if f"stage1.0.rbr_conv.{number}." not in k}
    assert len(kept) < len(state)
    weights = read(tmp_path, kept)
    assert len(weights.blocks) == 12
    assert "holds rbr_conv." in weights.left["stage1.0"]


def test_plain_layers_take_no_part_of_a_block_that_is_unclear(tmp_path: Path) -> None:
    state = load_checkpoint(path_of("yolov7_repconv")).state
    block = {k: v for k, v in load_checkpoint(path_of("yolov6_blocks")).state.items() if "rbr" in k}
    state |= {k.replace("backbone.", "enc."): v for k, v in block.items()}
    weights = read(tmp_path, state)
    assert {b.family.family for b in weights.blocks} == {"yolov7"}
    assert all("--family yolov6" in reason for reason in weights.left.values())
    assert len(weights.left) == 4
    by_eps = read(tmp_path, state, eps=1e-3)
    assert len(by_eps.blocks) == len(weights.blocks) + 4


def test_plain_layers_beside_blocks_of_two_eps_stay(tmp_path: Path) -> None:
    """A timm backbone (1e-5) with YOLOv7's head (1e-3): a convolution may be of either."""
    timm = load_checkpoint(path_of("timm_repvgg")).state
    state = {f"backbone.{key}": value for key, value in timm.items() if key.startswith("stages.")}
    state |= {f"head.{k}": v for k, v in load_checkpoint(path_of("yolov7_repconv")).state.items()}
    state["backbone.last.conv.weight"] = torch.ones(4, 4, 1, 1)
    state |= {f"backbone.last.bn.{leaf}": torch.ones(4) for leaf in BN_LEAVES}
    weights = read(tmp_path, state)
    assert {b.family.family for b in weights.blocks} == {"timm-repvgg", "yolov7"}
    assert "--eps" in weights.left["backbone.last"]
    one_eps = read(tmp_path, state, eps=1e-5)
    assert "backbone.last" in {block.path for block in one_eps.blocks}


def test_plain_layers_beside_repopt_vgg_stay(tmp_path: Path) -> None:
    """mmcv calls the parts of a ConvModule conv and bn too."""
    state = load_checkpoint(path_of("repoptvgg_csla")).state
    moved = {f"backbone.{key}": value for key, value in state.items()}
    moved["neck.lateral.conv.weight"] = torch.ones(4, 4, 1, 1)
    moved |= {f"neck.lateral.bn.{leaf}": torch.ones(4) for leaf in BN_LEAVES}
    weights = read(tmp_path, moved)
    assert len(weights.blocks) == len(read(tmp_path, state).blocks)
    assert weights.left == {}
