"""The family table. docs/families.md shows how to add an entry."""

from __future__ import annotations

from dataclasses import replace

from .family import NUMBER, BlockFamily, Branch, conv_bn, norm

#: YOLO's code bases set it on every batch norm when they build a model.
YOLO_EPS = 1e-3

_CSP_RESNET = r"(^|\.)stages\.\d+\."  # RT-DETRv2's backbone, as in PP-YOLOE

_REPOPT = r"(^|\.)stage(0|\d\.\d+)$"

_DENSE, _POINTWISE = conv_bn("rbr_dense"), conv_bn("rbr_1x1")


def _mobileone(conv: str, scale: str, skip: str, bn: str = "bn") -> tuple[Branch, ...]:
    """Any number of k x k branches, a 1x1 branch and an identity, each with its batch norm."""
    return (
        conv_bn(f"{conv}.{NUMBER}", bn=bn, optional=True),
        conv_bn(scale, bn=bn, optional=True),
        norm(skip),
    )


def _rep_mixer(mixer: tuple[Branch, ...], skip: str, scale: tuple[str, ...]) -> tuple[Branch, ...]:
    """FastViT's token mixer, x + scale * (mixer(x) - norm(x)) (FastViT paper, section 3.2)."""
    inner = [
        replace(
            branch,
            steps=(*(f"mixer.{step}" for step in branch.steps), *scale),
            kinds=branch.kinds + "s" * len(scale),
        )
        for branch in mixer
    ]
    kinds = "n" + "s" * len(scale)
    return (Branch(), *inner, Branch((f"norm.{skip}", *scale), factor=-1.0, kinds=kinds))


def _plain_conv(family: str) -> BlockFamily:
    """A plain convolution and its batch norm, which YOLO's own ``fuse()`` folds too."""
    branches = (Branch(("conv", "bn"), kinds="kn"),)
    return BlockFamily(family, "Conv", branches, "conv", YOLO_EPS, tail=("act",), companion=True)


def _classifier(block: str, *heads: tuple[str, str]) -> BlockFamily:
    """RepViT's batch norm and linear layer; of a distilled network's two, the mean counts."""
    branches = tuple(Branch(head, factor=1 / len(heads), kinds="nk") for head in heads)
    kind = f"{block} with distillation" if len(heads) > 1 else block
    there = r"(^|\.)(head|classifier)$"
    return BlockFamily("repvit", kind, branches, "", where=there, only_there=True)


_MOBILEONE = _mobileone("rbr_conv", "rbr_scale", "rbr_skip")
_TIMM_MOBILEONE = _mobileone("conv_kxk", "conv_scale", "identity")

_QAREPVGG_STAGES = r"(^|\.)stage(0|[1-4](_first|_second)?(\.blocks)?\.\d+)$"
_QAREPVGG = BlockFamily(
    "yolov6-qarepvgg",
    "QARepVGGBlock",
    (_DENSE, Branch(("rbr_1x1",), kinds="k"), Branch(attribute="rbr_identity")),
    "rbr_reparam",
    YOLO_EPS,
    outer_norm="bn",
    keeps_outer_norm=True,
    tail=("se", "nonlinearity"),
    where=rf"^(?!.*{_QAREPVGG_STAGES})",
    strided=r"(^|\.)(stem|ERBlock_\d\.0)$",
    note="QARepVGGBlockV2 has the same keys and one branch more, an average pool; if these blocks "
    "are V2, say --family yolov6-qarepvgg-v2",
)
_OFFICIAL = BlockFamily(
    "repvgg",
    "RepVGGBlock",
    (_DENSE, _POINTWISE, norm("rbr_identity")),
    "rbr_reparam",
    tail=("se", "nonlinearity", "post_se"),
    where=r"(^|\.)(stage|layer)_?\d",
    training_only=r"(^|\.)stage\d(_first)?_aux\.",
)

#: In the order in which they are tried: a block that holds another one comes before it.
FAMILIES: tuple[BlockFamily, ...] = (
    replace(
        _QAREPVGG,
        family="qarepvgg",
        eps=1e-5,
        keeps_outer_norm=False,
        before_outer_norm="se",
        tail=("se", "nonlinearity", "post_se"),
        where=_QAREPVGG_STAGES,
        only_there=True,
        strided=r"(^|\.)stage(0|[1-4](_first)?(\.blocks)?\.0)$",
        training_only=r"(^|\.)stage\d(_first)?_aux\.",
        note="",
    ),
    _QAREPVGG,
    _plain_conv("yolov6-qarepvgg"),
    _plain_conv("yolov6-qarepvgg-v2"),
    replace(
        _QAREPVGG,
        family="yolov6-qarepvgg-v2",
        block="QARepVGGBlockV2",
        branches=(*_QAREPVGG.branches, Branch(average_pool=3, attribute="rbr_avg")),
        on_request=True,
        note="",
    ),
    replace(
        _OFFICIAL,
        family="zcls",
        fused="",
        where=r"(^|\.)stage(0|\d+\.\d+)\.0$",
        only_there=True,
        training_only="",
    ),
    _OFFICIAL,
    replace(
        _OFFICIAL,
        family="yolov6",
        eps=YOLO_EPS,
        where=r"(^|\.)(backbone\.stem$|(ERBlock_\d|Rep_\w+)\.)",
        training_only="",
    ),
    _plain_conv("yolov6"),
    BlockFamily(
        "yolov7",
        "RepConv",
        (conv_bn("rbr_dense", "0", "1"), conv_bn("rbr_1x1", "0", "1"), norm("rbr_identity")),
        "rbr_reparam",
        YOLO_EPS,
        tail=("act",),
    ),
    _plain_conv("yolov7"),
    BlockFamily(
        "timm-repvgg",
        "RepVggBlock",
        (conv_bn("conv_kxk"), conv_bn("conv_1x1"), norm("identity")),
        "reparam_conv",
        tail=("drop_path", "attn", "act"),
    ),
    BlockFamily(
        "timm-fastvit",
        "RepMixer",
        _rep_mixer(_TIMM_MOBILEONE, "identity", ("layer_scale.gamma",)),
        "reparam_conv",
    ),
    BlockFamily(
        "timm-fastvit",
        "RepMixer without layer scale",
        _rep_mixer(_TIMM_MOBILEONE, "identity", ()),
        "reparam_conv",
    ),
    BlockFamily(
        "timm-fastvit",
        "ReparamLargeKernelConv",
        (conv_bn("large_conv"), conv_bn("small_conv", optional=True)),
        "reparam_conv",
        tail=("se", "act"),
    ),
    BlockFamily(
        "timm-fastvit",
        "RepConditionalPosEnc",
        (Branch(("pos_enc",), kernel=7, depthwise=True, kinds="k"), Branch()),
        "reparam_conv",
        where=r"(^|\.)pos_emb$",
        only_there=True,
    ),
    BlockFamily(
        "timm-mobileone",
        "MobileOneBlock",
        _TIMM_MOBILEONE,
        "reparam_conv",
        tail=("drop_path", "attn", "se", "act"),
    ),
    BlockFamily(
        "fastvit",
        "RepMixer",
        _rep_mixer(_MOBILEONE, "rbr_skip", ("layer_scale",)),
        "reparam_conv",
    ),
    BlockFamily(
        "fastvit",
        "RepMixer without layer scale",
        _rep_mixer(_MOBILEONE, "rbr_skip", ()),
        "reparam_conv",
    ),
    BlockFamily(
        "fastvit",
        "ReparamLargeKernelConv",
        (conv_bn("lkb_origin"), conv_bn("small_conv", optional=True)),
        "lkb_reparam",
        tail=("se", "activation"),
    ),
    BlockFamily(
        "fastvit",
        "RepCPE",
        (Branch(("pe",), kernel=7, depthwise=True, kinds="k"), Branch()),
        "reparam_conv",
        where=r"(^|\.)network\.\d+$",
        only_there=True,
    ),
    BlockFamily(
        "mobileone", "MobileOneBlock", _MOBILEONE, "reparam_conv", tail=("se", "activation")
    ),
    BlockFamily(
        "mmpretrain-repvgg",
        "RepVGGBlock",
        (conv_bn("branch_3x3", bn="norm"), conv_bn("branch_1x1", bn="norm"), norm("branch_norm")),
        "branch_reparam",
        tail=("se_layer", "act"),
    ),
    BlockFamily(
        "mmpretrain-mobileone",
        "MobileOneBlock",
        _mobileone("branch_conv_list", "branch_scale", "branch_norm", bn="norm"),
        "branch_reparam",
        tail=("se", "act"),
    ),
    BlockFamily(
        "rtdetrv2",
        "RepVggBlock with alpha",
        (
            conv_bn("conv1", kernel=3),
            Branch(("conv2.conv", "conv2.bn", "alpha"), kernel=1, kinds="kns"),
        ),
        "conv",
        tail=("act",),
        where=_CSP_RESNET,
        only_there=True,
    ),
    BlockFamily(
        "rtdetrv2",
        "RepVggBlock",
        (conv_bn("conv1", kernel=3), conv_bn("conv2", kernel=1)),
        "conv",
        tail=("act",),
        where=_CSP_RESNET,
        only_there=True,
    ),
    BlockFamily(
        "yolov9",
        "RepConv",
        (conv_bn("conv1", kernel=3), conv_bn("conv2", kernel=1), norm("bn")),
        "conv",
        YOLO_EPS,
        tail=("act",),
        where=r"(^|\.)model\.\d+",
        only_there=True,
    ),
    _plain_conv("yolov9"),
    BlockFamily(
        "yolov10",
        "RepVGGDW",
        (conv_bn("conv", kernel=7), conv_bn("conv1", kernel=3)),
        "conv",
        YOLO_EPS,
        tail=("act",),
    ),
    _plain_conv("yolov10"),
    BlockFamily(
        "rtdetr",
        "RepVggBlock",
        (conv_bn("conv1", bn="norm", kernel=3), conv_bn("conv2", bn="norm", kernel=1)),
        "conv",
        tail=("act", "activation"),
        keeps_branches=True,
    ),
    BlockFamily(
        "repvit",
        "RepVggDw",
        (conv_bn("conv", "c", kernel=3), Branch(("conv1",), kernel=1, kinds="k"), Branch()),
        "",
        outer_norm="bn",
    ),
    BlockFamily(
        "repvit",
        "RepVggDw, legacy",
        (conv_bn("conv", "c", kernel=3), conv_bn("conv1", "c", kernel=1), Branch()),
        "",
    ),
    _classifier("RepVitClassifier", ("head.bn", "head.l"), ("head_dist.bn", "head_dist.l")),
    _classifier("RepVitClassifier", ("head.bn", "head.l")),
    _classifier(
        "Classfier",
        ("classifier.bn", "classifier.l"),
        ("classifier_dist.bn", "classifier_dist.l"),
    ),
    _classifier("Classfier", ("classifier.bn", "classifier.l")),
    BlockFamily("repvit", "ConvNorm", (Branch(("c", "bn"), kinds="kn"),), ""),
    BlockFamily(
        "repopt-vgg",
        "RepVGGBlock",
        (
            Branch(("conv_3x3", "bn_3x3"), kinds="kn"),
            Branch(("conv_1x1", "bn_1x1"), kinds="kn"),
            norm("bn_identity"),
        ),
        "conv",
        tail=("relu", "post_se"),
    ),
    BlockFamily(
        "repopt-vgg",
        "LinearAddBlock",
        (
            Branch(("conv", "scale_conv.weight"), kinds="ks"),
            Branch(("conv_1x1", "scale_1x1.weight"), kinds="ks"),
            Branch(("scale_identity.weight",), optional=True, kinds="s"),
        ),
        "conv",
        outer_norm="bn",
        tail=("relu", "post_se"),
        where=_REPOPT,
        only_there=True,
    ),
    replace(
        _plain_conv("repopt-vgg"),
        block="RealVGGBlock",
        eps=1e-5,
        tail=("relu", "post_se"),
        where=_REPOPT,
        only_there=True,
        companion=False,
    ),
)

#: The code bases that ``--family`` can name.
FAMILY_NAMES: tuple[str, ...] = tuple(dict.fromkeys(family.family for family in FAMILIES))
