"""repvgg-deploy demo"""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .console import say, uninterrupted


@click.command("demo")
@options.engines
@click.pass_context
def command(ctx: click.Context, engines: Path) -> None:
    """Run the whole pipeline on a bundled checkpoint.

    It is a slim RepVGG trained on Fashion-MNIST (docs/demo-checkpoint):
    fuse, export (ONNX, and a TensorRT-RTX engine where that is installed), verify, bench, evaluate
    on 512 bundled test images, and report.
    """
    with uninterrupted():
        from ..data.demo import DEMO_IMAGE_SIZE, demo_checkpoint, demo_images_file
        from ..engine.flavour import NoTensorRT
        from ..optional import available, install_line
        from . import bench, evaluate, export, fuse, report, verify

    _step(ctx, "fuse", fuse.command, subject=str(demo_checkpoint()), name="demo", engines=engines)
    size = DEMO_IMAGE_SIZE
    try:
        _step(
            ctx, "export --onnx --trt fp16 --size 56", export.command,
            want_onnx=True, trt="fp16", image_size=size, engines=engines,
        )  # fmt: skip
    except NoTensorRT as error:
        say(f"no engine: {error}")
    _step(ctx, "verify", verify.command, files=(), engines=engines)
    _step(
        ctx,
        "bench --batch 1,32 --duration 3 --no-roofline",
        bench.command,
        batches=[1, 32],
        duration=3.0,
        roofline=False,
        engines=engines,
    )
    _step(
        ctx,
        "evaluate --data IMAGES --preprocess fashion-mnist",
        evaluate.command,
        files=(),
        data=demo_images_file(),
        preset="fashion-mnist",
        engines=engines,
    )
    if available("matplotlib") and available("jinja2"):
        _step(ctx, "report", report.command, engines=engines)
    else:
        say(f"\nno report: {install_line('report')}, then run repvgg-deploy report")


def _step(ctx: click.Context, title: str, step: click.Command, **arguments: object) -> None:
    say(f"\n# repvgg-deploy {title}")
    ctx.invoke(step, **arguments)
