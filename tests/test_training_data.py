"""Data sets to train on: CIFAR-10 files, what is trained and validated on, corrupt images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repvgg_deploy.data.cifar import CLASSES
from repvgg_deploy.data.image_set import open_images
from repvgg_deploy.data.preprocessing import PRESETS, READY, Preprocessing
from repvgg_deploy.data.training import TrainingSet, check_classes, open_training
from repvgg_deploy.errors import UserError

from .conftest import Cli
from .helpers import tiny_spec, training_state
from .test_data import idx, mnist, noise, save, truncated

PLAIN = Preprocessing(channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
CIFAR = PRESETS["cifar-10"]


def record(label: int, seed: int) -> bytes:
    return bytes([label]) + noise(3, 32, 32, seed=seed).tobytes()


def cifar(folder: Path, per_file: int = 2) -> Path:
    """The label of record r of file f is (f * per_file + r) % 10, and its seed that number."""
    folder.mkdir(exist_ok=True)
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for place, name in enumerate(names):
        numbers = range(place * per_file, (place + 1) * per_file)
        (folder / name).write_bytes(b"".join(record(n % 10, n) for n in numbers))
    return folder


def tree(folder: Path, classes: str = "ab", per_class: int = 3, start: int = 0) -> Path:
    """Folders of classes with pictures that all differ."""
    for place, name in enumerate(classes):
        for number in range(per_class):
            seed = start + place * 100 + number
            save(noise(6, 8, 3, seed=seed), folder / name / f"{number}.png")
    return folder


def names(data: TrainingSet, which: str = "train") -> list[str]:
    images = getattr(data, which)
    return [Path(images.source.name(n)).stem for n in images.picked.tolist()]


# CIFAR-10


def test_cifar_10_by_hand(tmp_path: Path) -> None:
    """Planes R, G, B; the five files one after the other."""
    train = open_images(cifar(tmp_path), CIFAR, split="train")
    assert train.labels is not None
    assert train.labels.tolist() == list(range(10))
    assert train.classes == CLASSES
    assert train.classes[9] == "truck"
    found = np.concatenate(list(train.batches(4)))
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (CIFAR.mean, CIFAR.std))
    for number in (0, 9):
        pixels = noise(3, 32, 32, seed=number).astype(np.float32) / 255
        assert np.array_equal(found[number], (pixels - mean) / std)
    test = open_images(tmp_path, CIFAR, split="test")
    assert len(test) == 2
    assert test.labels is not None
    assert test.labels.tolist() == [0, 1]


def test_cifar_10_says_what_its_classes_are(tmp_path: Path) -> None:
    (cifar(tmp_path) / "batches.meta.txt").write_text("\n".join("qwertyuiop") + "\n\n")
    assert open_images(tmp_path, CIFAR, split="test").classes == tuple("qwertyuiop")
    (tmp_path / "batches.meta.txt").write_text("q\nw\n")
    with pytest.raises(UserError, match=r"batches.meta.txt: names 2 classes, not 10"):
        open_images(tmp_path, CIFAR, split="test")


def test_one_split_needs_no_name(tmp_path: Path) -> None:
    cifar(tmp_path)
    with pytest.raises(UserError, match="both splits of CIFAR-10; pick one with --split"):
        open_images(tmp_path, CIFAR)
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").unlink()
    assert len(open_images(tmp_path, CIFAR)) == 2


@pytest.mark.parametrize(
    ("file", "damage", "what"),
    [
        ("data_batch_3.bin", lambda p: p.write_bytes(p.read_bytes()[:-1]),
         r"data_batch_3.bin: is cut off in record 1 "),
        ("test_batch.bin", lambda p: p.write_bytes(b""),
         r"test_batch.bin: is cut off in record 0 "),
        ("data_batch_5.bin", lambda p: p.write_bytes(record(9, 0) * 3 + record(10, 0)),
         r"data_batch_5.bin: record 3 has label 10, and CIFAR-10 has 0 to 9"),
        ("data_batch_2.bin", lambda p: p.unlink(), "holds no data_batch_2.bin"),
        ("batches.meta.txt", lambda p: p.write_bytes(b"\xff\xfe"), "batches.meta.txt: is no text"),
    ],
)  # fmt: skip
def test_damaged_cifar_10(
    tmp_path: Path, file: str, damage: Callable[[Path], None], what: str
) -> None:
    damage(cifar(tmp_path) / file)
    with pytest.raises(UserError, match=what):
        open_images(tmp_path, CIFAR, split="test" if "test" in file else "train")


def test_evaluate_reads_cifar_10(cli: Cli, tmp_path: Path) -> None:
    torch.save(training_state(tiny_spec(num_classes=10)), tmp_path / "ckpt.pth")
    cifar(tmp_path / "cifar")
    arguments = ("evaluate", "ckpt.pth", "--data", "cifar", "--preprocess", "cifar-10", "--json")
    result = cli(*arguments, "--split", "test")
    assert result.code == 0, result.err
    assert json.loads(result.out)["samples"] == 2
    assert "--split" in cli(*arguments).err


# What is trained and validated on


def test_a_folder_of_classes_validates_on_nothing(tmp_path: Path) -> None:
    data = open_training(tree(tmp_path))
    assert (len(data.train), data.val, data.num_classes) == (6, None, 2)
    assert data.classes == ("a", "b")
    assert data.checked == 6
    assert data.corrupt == ()
    assert data.train.preprocessing == PRESETS["imagenet"]
    assert any("none: " in note and "--hold-out" in note for note in data.notes)
    assert any("imagenet" in note for note in data.notes)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test"])
def test_train_and_val_beside_one_another(tmp_path: Path, val: str) -> None:
    tree(tmp_path / "train")
    tree(tmp_path / val, per_class=2, start=500)
    data = open_training(tmp_path, PLAIN)
    assert data.val is not None
    assert (len(data.train), len(data.val), data.checked) == (6, 4, 10)
    assert data.train.preprocessing == data.val.preprocessing == PLAIN
    assert any(f"validation: 4 images of {tmp_path / val}" in note for note in data.notes)


def test_val_goes_before_test(tmp_path: Path) -> None:
    for name, count in (("train", 3), ("test", 2), ("val", 1)):
        tree(tmp_path / name, per_class=count)
    data = open_training(tmp_path, PLAIN)
    assert data.val is not None
    assert len(data.val) == 2


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "train"):
        save(noise(4, 4, 3), tmp_path / name / "1.png")
    assert open_training(tmp_path, PLAIN).classes == ("bus", "train")


def test_idx_files_and_cifar_10_have_both(tmp_path: Path) -> None:
    mnist(tmp_path / "idx", noise(5, 28, 28), np.array([0, 1, 2, 3, 9], np.uint8))
    mnist(tmp_path / "idx", noise(3, 28, 28), np.array([0, 8, 9], np.uint8), "t10k")
    data = open_training(tmp_path / "idx")
    assert data.val is not None
    assert (len(data.train), len(data.val), data.num_classes, data.checked) == (5, 3, 10, 0)
    assert data.train.preprocessing == PRESETS["fashion-mnist-32"]
    assert "labels: no training image has 4, 5, 6, ..." in data.notes
    data = open_training(cifar(tmp_path / "cifar"))
    assert data.val is not None
    assert (len(data.train), len(data.val), data.num_classes) == (10, 2, 10)
    assert data.train.preprocessing == CIFAR
    assert data.classes == CLASSES


def test_arrays_are_preprocessed_as_they_say(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 3, 5, 5), np.float32), y=np.arange(4))
    data = open_training(tmp_path / "x.npz")
    assert data.train.preprocessing == READY
    assert data.num_classes == 4
    np.savez(tmp_path / "y.npz", x=noise(4, 5, 5), y=np.arange(4))
    with pytest.raises(UserError, match="--preprocess"):
        open_training(tmp_path / "y.npz")


def test_val_elsewhere(tmp_path: Path) -> None:
    tree(tmp_path / "a")
    tree(tmp_path / "b", per_class=1)
    data = open_training(tmp_path / "a", PLAIN, val=tmp_path / "b")
    assert data.val is not None
    assert len(data.val) == 2
    with pytest.raises(UserError, match="these are the training images"):
        open_training(tmp_path / "a", PLAIN, val=tmp_path / "a")
    with pytest.raises(UserError, match="leave one out"):
        open_training(tmp_path / "a", PLAIN, val=tmp_path / "b", hold_out=0.1)
    with pytest.raises(UserError, match="no such file or folder"):
        open_training(tmp_path / "a", PLAIN, val=tmp_path / "c")


def test_a_share_of_every_class_is_held_out(tmp_path: Path) -> None:
    labels = np.array([0] * 40 + [1] * 20 + [2] * 1)
    np.savez(tmp_path / "x.npz", x=noise(61, 4, 4), y=labels)
    data = open_training(tmp_path / "x.npz", PLAIN, hold_out=0.1, seed=1)
    assert data.val is not None and data.val.labels is not None
    assert np.bincount(data.val.labels, minlength=3).tolist() == [4, 2, 0]
    assert not set(data.val.picked.tolist()) & set(data.train.picked.tolist())
    assert len(data.train) + len(data.val) == 61
    again, other = (
        open_training(tmp_path / "x.npz", PLAIN, hold_out=0.1, seed=seed).val for seed in (1, 2)
    )
    assert again is not None and other is not None
    assert again.picked.tolist() == data.val.picked.tolist() != other.picked.tolist()
    with pytest.raises(UserError, match=r"--hold-out 0.01: is less than one image"):
        open_training(tmp_path / "x.npz", PLAIN, hold_out=0.01)
    with pytest.raises(UserError, match=r"--hold-out 1: is no share"):
        open_training(tmp_path / "x.npz", PLAIN, hold_out=1.0)


def test_a_hold_out_leaves_the_test_split_alone(tmp_path: Path) -> None:
    cifar(tmp_path, per_file=4)
    data = open_training(tmp_path, hold_out=0.5)
    assert data.val is not None
    assert (len(data.train), len(data.val)) == (10, 10)
    assert any("is left alone" in note for note in data.notes)


def test_images_without_labels_are_for_distillation(tmp_path: Path) -> None:
    for number in range(3):
        save(noise(4, 4, 3, seed=number), tmp_path / "flat" / f"{number}.png")
    with pytest.raises(UserError, match="have no labels"):
        open_training(tmp_path / "flat", PLAIN)
    data = open_training(tmp_path / "flat", PLAIN, labels_needed=False)
    assert (len(data.train), data.num_classes, data.checked) == (3, None, 3)
    with pytest.raises(UserError, match=r"no labels to validate by; leave out --hold-out"):
        open_training(tmp_path / "flat", PLAIN, labels_needed=False, hold_out=0.3)
    data = open_training(
        tmp_path / "flat", PLAIN, labels_needed=False, val=tree(tmp_path / "labelled")
    )
    assert data.val is not None
    assert data.val.classes == ("a", "b")
    with pytest.raises(UserError, match="have no labels"):
        open_training(tmp_path / "labelled", PLAIN, val=tmp_path / "flat")


# Classes


def test_a_class_folder_with_no_images(tmp_path: Path) -> None:
    (tree(tmp_path) / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no images, and is a class by its place"):
        open_training(tmp_path, PLAIN)


def test_a_folder_of_parts_without_training_images(tmp_path: Path) -> None:
    tree(tmp_path / "val")
    with pytest.raises(UserError, match="holds val and no folder train"):
        open_training(tmp_path, PLAIN)


def test_one_class_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all of one class"):
        open_training(tree(tmp_path, "a"), PLAIN)


@pytest.mark.parametrize(
    ("classes", "what"),
    [("ac", r"\(it lacks b and has c\)"), ("a", r"\(it lacks b\)"), ("abc", r"\(it has c\)")],
)
def test_classes_have_to_be_the_same(tmp_path: Path, classes: str, what: str) -> None:
    tree(tmp_path / "train")
    tree(tmp_path / "val", classes)
    with pytest.raises(UserError, match=what):
        open_training(tmp_path, PLAIN)


def test_a_label_that_training_does_not_have_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", x=noise(3, 4, 4), y=np.arange(3))
    np.savez(tmp_path / "val.npz", x=noise(3, 4, 4), y=np.array([0, 3, 4]))
    with pytest.raises(
        UserError, match=r"val.npz: image 1: has label 3, and the training set .* 2;"
    ):
        open_training(tmp_path / "train.npz", PLAIN, val=tmp_path / "val.npz")


def test_a_label_that_is_no_class_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=noise(3, 4, 4), y=np.array([0, 1, -1]))
    with pytest.raises(UserError, match=r"x.npz: its labels .* that of image 2 is -1"):
        open_training(tmp_path / "x.npz", PLAIN)
    (tmp_path / "idx").mkdir()
    (tmp_path / "idx" / "train-images-idx3-ubyte").write_bytes(idx(noise(3, 4, 4)))
    with pytest.raises(UserError, match="have no labels"):
        open_training(tmp_path / "idx")


def test_a_networks_classes_are_the_datas(tmp_path: Path) -> None:
    data = open_training(tree(tmp_path / "t"), PLAIN)
    check_classes(data, 2)
    with pytest.raises(UserError, match="has 2 classes and the network 10"):
        check_classes(data, 10)
    np.savez(tmp_path / "x.npz", x=noise(4, 4, 4), y=np.array([0, 1, 5, 2]))
    arrays = open_training(tmp_path / "x.npz", PLAIN)
    check_classes(arrays, 10)
    with pytest.raises(UserError, match=r"image 2: has label 5, and the network has .* 0 to 4"):
        check_classes(arrays, 5)


# Corrupt images


def test_corrupt_images_are_left_out_and_told(tmp_path: Path) -> None:
    tree(tmp_path / "train")
    tree(tmp_path / "val", per_class=2)
    truncated(tmp_path / "train" / "a" / "1.png")
    (tmp_path / "val" / "b" / "0.png").write_text("no picture")
    shares: list[float] = []
    data = open_training(tmp_path, PLAIN, workers=2, progress=shares.append)
    bad = (str(tmp_path / "train" / "a" / "1.png"), str(tmp_path / "val" / "b" / "0.png"))
    assert data.corrupt == bad
    assert data.checked == 10
    assert names(data) == ["0", "2", "0", "1", "2"]
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert names(data, "val") == ["0", "1", "1"]
    assert sum("cannot be decoded and are left out" in note for note in data.notes) == 2
    assert shares == [1.0, 1.0]


def test_too_many_corrupt_images_are_refused(tmp_path: Path) -> None:
    """1 % of 20 is less than one image, and one may be."""
    tree(tmp_path, per_class=10)
    truncated(tmp_path / "a" / "1.png")
    assert len(open_training(tmp_path, PLAIN).train) == 19
    with pytest.raises(UserError, match=r"1 of 20 images cannot .* the 0 that --max-corrupt 0 "):
        open_training(tmp_path, PLAIN, max_corrupt=0)
    for number in (3, 5, 7):
        truncated(tmp_path / "b" / f"{number}.png")
    with pytest.raises(UserError) as error:
        open_training(tmp_path, PLAIN)
    assert str(error.value).startswith(
        f"{tmp_path}: 4 of 20 images cannot be decoded, more than the 1 that --max-corrupt 0.01 "
        f"allows ({tmp_path}/a/1.png, {tmp_path}/b/3.png, {tmp_path}/b/5.png, ...)"
    )
    assert len(open_training(tmp_path, PLAIN, max_corrupt=0.2).train) == 16


def test_a_class_of_corrupt_images_only(tmp_path: Path) -> None:
    tree(tmp_path, "abc", per_class=1)
    truncated(tmp_path / "b" / "0.png")
    with pytest.raises(UserError, match="b: none of its images can be decoded"):
        open_training(tmp_path, PLAIN)


def test_nothing_but_corrupt_images(tmp_path: Path) -> None:
    for name in "ab":
        truncated(tmp_path / name / "0.png")
    with pytest.raises(UserError, match="2 of 2 images cannot be decoded"):
        open_training(tmp_path, PLAIN, max_corrupt=1.0)


def test_the_hash_is_that_of_the_images_that_are_left(tmp_path: Path) -> None:
    """Of their files, order and labels, as evaluate has it."""
    tree(tmp_path)
    whole = open_images(tmp_path, PLAIN).sha256
    assert open_training(tmp_path, PLAIN).train.sha256 == whole
    truncated(tmp_path / "a" / "1.png")
    data = open_training(tmp_path, PLAIN)
    digest = hashlib.sha256()
    for path in ("a/0", "a/2", "b/0", "b/1", "b/2"):
        digest.update(hashlib.sha256((tmp_path / f"{path}.png").read_bytes()).digest())
    digest.update(b"labels" + np.array([0, 0, 1, 1, 1], "<i8").tobytes())
    assert data.train.sha256 == digest.hexdigest() != whole
    Image.fromarray(noise(3, 3)).save(tmp_path / "a" / "0.png")  # read once, at the start
    assert data.train.sha256 == digest.hexdigest()
