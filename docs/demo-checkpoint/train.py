"""Train a RepVGG on Fashion-MNIST: the bundled demo checkpoint, or a network of the int8 benchmark.

    python docs/demo-checkpoint/train.py --data /usr/share/datasets/fashion-mnist --out out/
    python docs/demo-checkpoint/train.py --network a0 --epochs 6 --data ... --out out/

Older than ``repvgg-deploy train``, which is what to use now; kept since the bundled checkpoint and
the networks of docs/results/int8.json come from it. The folder holds the four IDX .gz files of
Fashion-MNIST (Debian: dataset-fashion-mnist). Writes ``<network>.pth`` (official key layout), and
for the demo ``demo_images.npz`` (the first 512 test images and labels); these two are what
``repvgg_deploy/demo/`` ships. ``train.log`` beside this file is its output.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from repvgg_deploy.data.fashion_mnist import preprocess
from repvgg_deploy.data.idx import read_idx
from repvgg_deploy.data.pixels import to_input
from repvgg_deploy.data.preprocessing import PRESETS
from repvgg_deploy.models.network import RepVGG
from repvgg_deploy.models.zoo import ZOO, describe, make_spec

DEPTHS = (2, 4, 14, 1)  # RepVGG-A0
SLIM = (16, 16, 32, 64, 256)
#: The demo takes 56 px images of one channel, the others RGB of 32 px (28 and a black border).
NETWORKS = {
    "demo": make_spec(DEPTHS, SLIM, num_classes=10, in_channels=1),
    "a0": ZOO["RepVGG-A0"].spec(num_classes=10),
    "narrow": make_spec(DEPTHS, (8, 8, 8, 8, 8), num_classes=10),
    "narrow9": make_spec((1, 2, 4, 1), (8, 8, 8, 8, 8), num_classes=10),
    "g4": make_spec(DEPTHS, (32, 32, 64, 96, 256), num_classes=10, groups=4),
    "se": make_spec(DEPTHS, (32, 32, 64, 96, 256), num_classes=10, se_ratio=16),
}
BUNDLED_IMAGES = 512


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random horizontal flip and a random shift of up to 4 px, drawn for each image."""
    n, _, height, width = images.shape
    flips = torch.rand(n, generator=generator) < 0.5
    images = torch.where(flips[:, None, None, None], images.flip(3), images)
    background = float(images.min())
    padded = nn.functional.pad(images, (4, 4, 4, 4), value=background)
    dy, dx = torch.randint(0, 9, (2, n), generator=generator)
    rows = dy[:, None] + torch.arange(height)
    columns = dx[:, None] + torch.arange(width)
    picked = torch.arange(n)[:, None, None]
    return padded[picked, 0, rows[:, :, None], columns[:, None, :]][:, None]


def small(images: np.ndarray) -> np.ndarray:
    """Bytes [N, 28, 28] -> float32 [N, 1, 32, 32], one of the three channels, which are alike."""
    how = PRESETS["fashion-mnist-32"]
    return np.stack([to_input(Image.fromarray(image), how)[:1] for image in images])


@torch.inference_mode()
def top1(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of right answers, in percent."""
    network.eval()
    correct = sum(
        int((network(x).argmax(1) == y).sum())
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    return 100 * correct / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the IDX .gz files")
    parser.add_argument("--out", type=Path, required=True, help="where to write")
    parser.add_argument("--network", choices=NETWORKS, default="demo")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)

    def load(split: str) -> tuple[np.ndarray, Tensor]:
        images = read_idx(args.data / f"{split}-images-idx3-ubyte.gz")
        labels = read_idx(args.data / f"{split}-labels-idx1-ubyte.gz")
        return images, torch.from_numpy(labels.astype(np.int64))

    train_images, train_labels = load("train")
    test_images, test_labels = load("t10k")
    spec = NETWORKS[args.network]
    prepare = preprocess if args.network == "demo" else small
    train_inputs = torch.from_numpy(prepare(train_images))
    test_inputs = torch.from_numpy(prepare(test_images)).expand(-1, spec.in_channels, -1, -1)

    network = RepVGG(spec, "train")
    print(f"torch {torch.__version__}; {describe(spec)}", flush=True)

    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]  # biases and batch norm
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}],
        lr=args.lr, momentum=0.9, nesterov=True,
    )  # fmt: skip
    steps = args.epochs * (len(train_labels) // args.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, steps, pct_start=0.15)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    for epoch in range(args.epochs):
        start, running = time.monotonic(), 0.0
        network.train()
        order = torch.randperm(len(train_labels), generator=generator)
        batches = [b for b in order.split(args.batch) if len(b) == args.batch]
        for batch in batches:
            images = augment(train_inputs[batch], generator).expand(-1, spec.in_channels, -1, -1)
            loss = criterion(network(images), train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            running += loss.item()
        accuracy = top1(network, test_inputs, test_labels)
        seconds = time.monotonic() - start
        print(
            f"epoch {epoch + 1:2d}/{args.epochs}  loss {running / len(batches):.4f}  "
            f"test top-1 {accuracy:.2f} %  {seconds:.0f} s",
            flush=True,
        )
        torch.save(
            {"state_dict": network.state_dict(), "epoch": epoch + 1},
            args.out / f"{args.network}.pth",
        )
    if args.network != "demo":
        return
    np.savez_compressed(
        args.out / "demo_images.npz",
        images=test_images[:BUNDLED_IMAGES],
        labels=test_labels[:BUNDLED_IMAGES].numpy().astype(np.uint8),
    )


if __name__ == "__main__":
    main()
