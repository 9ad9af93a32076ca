"""Images to calibrate with and to evaluate on: sources, preprocessing, subsets, refusals."""

from __future__ import annotations

import gzip
import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from repvgg_deploy.data.calibration import check_calibration
from repvgg_deploy.data.demo import demo_images
from repvgg_deploy.data.fashion_mnist import MEAN, STD
from repvgg_deploy.data.idx import read_idx
from repvgg_deploy.data.image_set import ImageSet, open_images
from repvgg_deploy.data.pixels import to_input
from repvgg_deploy.data.preprocessing import PRESETS, READY, Preprocessing
from repvgg_deploy.data.recorded import recorded_preprocessing
from repvgg_deploy.errors import UserError

BUNDLED = Path(__file__).parent.parent / "repvgg_deploy" / "demo" / "demo_images.npz"
#: Pixels 0..1, so that expected values are easy to write.
PLAIN = Preprocessing(channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
GREY = Preprocessing(channels=1, mean=(0.0,), std=(1.0,))


def everything(images: ImageSet, size: int = 7) -> np.ndarray:
    return np.concatenate(list(images.batches(size)))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(array: np.ndarray, path: Path, **how: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **how)


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim])
    return head + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(folder: Path, images: np.ndarray, labels: np.ndarray, name: str = "train") -> None:
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / f"{name}-images-idx3-ubyte.gz", "wb") as stream:
        stream.write(idx(images))
    (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))


# What is done to an image


def test_presets_are_to_the_bit_what_the_networks_were_trained_with() -> None:
    with np.load(BUNDLED) as content:
        raw = content["images"]
    ours = open_images(BUNDLED, PRESETS["fashion-mnist"])
    expected, labels = demo_images()
    assert np.array_equal(everything(ours, 100), expected)
    assert ours.labels is not None
    assert ours.labels.tolist() == labels.tolist()
    bordered = np.pad(raw, ((0, 0), (2, 2), (2, 2)))  # docs/demo-checkpoint/train.py, as trained
    scaled = ((bordered.astype(np.float32) / 255.0 - MEAN) / STD)[:, None].repeat(3, axis=1)
    assert np.array_equal(everything(open_images(BUNDLED, PRESETS["fashion-mnist-32"])), scaled)


def test_imagenet_as_torchvision_does_it() -> None:
    """A picture of 4 x 8 doubled squares: a short side of 256 makes 256x512 and keeps their
    insides, and the crop is columns 144 to 367 and rows 16 to 239."""
    squares = noise(4, 8, 3)
    picture = Image.fromarray(squares.repeat(64, 0).repeat(64, 1))
    image = to_input(picture, PRESETS["imagenet"])
    assert image.shape == (3, 224, 224)
    assert image.dtype == np.float32
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for row, column in ((0, 0), (100, 100), (223, 223)):
        pixel = squares[(row + 16) // 64, (column + 144) // 64] / 255
        assert np.allclose(image[:, row, column], (pixel - mean) / std, atol=1e-5)


def test_the_longer_side_is_cut_and_the_filter_is_as_asked() -> None:
    picture = Image.fromarray(noise(30, 47, 3))
    short = Preprocessing(10, None, "bicubic", 3, PLAIN.mean, PLAIN.std)
    image = to_input(picture, short)
    assert image.shape == (3, 10, 15)  # 47 / 3 = 15.67
    pillow = np.asarray(picture.resize((15, 10), Image.Resampling.BICUBIC), np.float32) / 255
    assert np.array_equal(image, pillow.transpose(2, 0, 1))
    tall = to_input(Image.fromarray(noise(47, 30, 3)), short.changed({"interpolation": "box"}))
    assert tall.shape == (3, 15, 10)


def test_crop_pads_with_black_and_rounds_half_to_even() -> None:
    row = np.arange(1, 8, dtype=np.uint8)[None]  # 7 pixels: 1 to 7
    crop = to_input(Image.fromarray(row), GREY.changed({"crop": (1, 4)}))
    assert (crop * 255).round().tolist() == [[[3, 4, 5, 6]]]  # 1.5 -> 2
    crop = to_input(Image.fromarray(row), GREY.changed({"crop": (2, 10)}))
    assert (crop * 255).round().tolist() == [[[0, 1, 2, 3, 4, 5, 6, 7, 0, 0], [0] * 10]]


def test_grey_is_repeated_and_rgb_becomes_grey() -> None:
    grey = to_input(Image.fromarray(noise(3, 5)), PLAIN)
    assert grey.shape == (3, 3, 5)
    assert np.array_equal(grey[0], grey[2])
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 255
    assert to_input(Image.fromarray(red), GREY)[0, 0, 0] * 255 == pytest.approx(76)  # ITU-R 601


def test_a_sliver_is_not_blown_up() -> None:
    sliver = Image.fromarray(noise(1, 16_000))
    with pytest.raises(UserError, match="1x16000 pixels would be resized to 256x4096000"):
        to_input(sliver, PRESETS["imagenet"])


def test_records_come_back_from_json_and_differ_in_words() -> None:
    for preset in PRESETS.values():
        assert Preprocessing.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset
    imagenet = PRESETS["imagenet"]
    assert imagenet.differences(imagenet) == []
    other = imagenet.changed({"crop": (192, 192), "mean": (0.5,)})
    assert imagenet.differences(other) == [
        "crop 224x224, not 192x192",
        "mean 0.485 0.456 0.406, not 0.5 0.5 0.5",
    ]
    (line,) = imagenet.differences(READY)
    assert line.endswith("not preprocessed already")


@pytest.mark.parametrize(
    "changes",
    [{"resize": 0}, {"resize": True}, {"resize": [1, 2, 3]}, {"resize": 10**9}, {"resize": "a"},
     {"crop": 224}, {"crop": [224]}, {"interpolation": "sinc"}, {"interpolation": ["box"]},
     {"channels": 2}, {"channels": True}, {"channels": 3.0}, {"channels": None},
     {"mean": [0.5]}, {"mean": 0.5},
     {"mean": [float("nan")] * 3}, {"mean": ["a"] * 3}, {"std": [0.0] * 3}, {"std": None},
     {"more": 1}, {"channels": {}}],
)  # fmt: skip
def test_a_record_that_is_none_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Preprocessing.from_dict({**PRESETS["imagenet"].to_dict(), **changes})


@pytest.mark.parametrize("record", [None, [], "x", {}, {"crop": None}])
def test_a_record_of_another_kind_is_refused(record: object) -> None:
    with pytest.raises(ValueError, match="does not consist of"):
        Preprocessing.from_dict(record)


# Folders


def test_sub_folders_are_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    for place in ("b/2.png", "b/10.png", "b/deep/1.jpg", "a/x.PNG", "c10/1.png", "c9/1.png"):
        save(noise(4, 4, 3), tmp_path / place)
    (tmp_path / "b" / "notes.txt").write_text("x")
    save(noise(4, 4, 3), tmp_path / "b" / ".hidden.png")
    save(noise(4, 4, 3), tmp_path / ".cache" / "1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "b" / "folder.png").mkdir()
    os.mkfifo(tmp_path / "b" / "pipe.png")
    images = open_images(tmp_path, PLAIN)
    names = [str(Path(images.source.name(i)).relative_to(tmp_path)) for i in range(len(images))]
    assert names == ["a/x.PNG", "b/10.png", "b/2.png", "b/deep/1.jpg", "c10/1.png", "c9/1.png"]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1, 1, 1, 2, 3]
    assert images.classes == ("a", "b", "c10", "c9", "empty")
    assert everything(images).shape == (6, 3, 4, 4)


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    pictures = [noise(4, 4, 3, seed=i) for i in range(3)]
    for i, picture in enumerate(pictures):
        save(picture, tmp_path / f"{i}.png")
    images = open_images(tmp_path, PLAIN)
    assert images.labels is None
    expected = np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) / 255
    assert np.array_equal(everything(images), expected)
    assert np.array_equal(everything(images, 1), everything(images, 100))


def test_pictures_of_every_kind_are_decoded_as_training_code_does(tmp_path: Path) -> None:
    """Transparency is dropped, the first frame taken, EXIF not heeded, CMYK made RGB."""
    rgb = noise(6, 8, 3)
    picture = Image.fromarray(rgb)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    transparent = Image.fromarray(np.dstack([rgb, noise(6, 8, 1)]))
    picture.save(tmp_path / "a.png", exif=turned)
    transparent.save(tmp_path / "b.png")
    picture.save(tmp_path / "c.tif", save_all=True, append_images=[Image.new("RGB", (8, 6))])
    images = everything(open_images(tmp_path, PLAIN))
    assert np.array_equal(images, np.stack([rgb.transpose(2, 0, 1).astype(np.float32) / 255] * 3))
    for mode, name in (("CMYK", "d.jpg"), ("P", "e.png"), ("1", "f.png"), ("LA", "g.png")):
        plain = picture.convert("L").convert("LA") if mode == "LA" else picture.convert(mode)
        plain.save(tmp_path / name, **({"transparency": b"\x00\x80"} if mode == "P" else {}))
    assert everything(open_images(tmp_path, PLAIN)).shape == (7, 3, 6, 8)


def truncated(path: Path) -> None:
    save(noise(64, 64, 3), path)
    path.write_bytes(path.read_bytes()[:-3000])


def bomb(path: Path) -> None:
    """A few bytes that claim 100,000 x 100,000 pixels."""
    save(noise(2, 2), path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (truncated, "cannot be decoded"),
        (bomb, "cannot be decoded"),
        (lambda path: path.write_text("no picture"), "cannot be decoded"),
        (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
         "cannot be decoded"),
        (lambda path: save(noise(4, 4).astype(np.uint16) * 200, path), "more than 8 bits"),
    ],
)  # fmt: skip
def test_a_picture_that_cannot_be_used_is_named(
    tmp_path: Path, make: Callable[[Path], None], what: str
) -> None:
    make(tmp_path / "1.png")
    with pytest.raises(UserError, match=what) as error:
        everything(open_images(tmp_path, PLAIN))
    assert str(tmp_path / "1.png") in str(error.value)


def test_sizes_that_differ_after_preprocessing(tmp_path: Path) -> None:
    save(noise(8, 8, 3), tmp_path / "1.png")
    save(noise(8, 9, 3), tmp_path / "2.png")
    with pytest.raises(UserError, match=r"2.png: is 8x9 pixels .* first image 8x8.*--crop"):
        everything(open_images(tmp_path, PLAIN), 1)


def make_nothing(folder: Path) -> None:
    (folder / "readme.txt").write_text("x")


def make_mixed(folder: Path) -> None:
    save(noise(4, 4), folder / "1.png")
    save(noise(4, 4), folder / "a" / "1.png")


def make_splits(folder: Path) -> None:
    for split in ("train", "val"):
        save(noise(4, 4), folder / split / "a" / "1.png")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (make_nothing, "holds no images"),
        (make_mixed, "holds images beside folders of images"),
        (make_splits, "parts of a data set, not classes"),
    ],
)
def test_folders_that_cannot_be_used(
    tmp_path: Path, make: Callable[[Path], None], what: str
) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=what):
        open_images(tmp_path, PLAIN)


# IDX


def test_idx_with_its_labels(tmp_path: Path) -> None:
    images, labels = noise(5, 28, 28), np.array([3, 1, 4, 1, 5], np.uint8)
    mnist(tmp_path / "d", images, labels)
    for path in (tmp_path / "d", tmp_path / "d" / "train-images-idx3-ubyte.gz"):
        found = open_images(path, GREY)
        assert found.labels is not None
        assert found.labels.tolist() == labels.tolist()
        assert np.array_equal(everything(found), images[:, None].astype(np.float32) / 255)
    mnist(tmp_path / "d", images[:2], labels[:2], "t10k")
    with pytest.raises(UserError, match="pick one with --split"):
        open_images(tmp_path / "d", GREY)
    assert len(open_images(tmp_path / "d", GREY, split="test")) == 2
    assert len(open_images(tmp_path / "d", GREY, split="train")) == 5
    (tmp_path / "d" / "train-labels-idx1-ubyte").unlink()
    assert open_images(tmp_path / "d", GREY, split="train").labels is None
    with pytest.raises(UserError, match="leave out --split"):
        open_images(BUNDLED, GREY, split="test")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "no IDX file"),
        (b"\x00\x00\x0d\x03" + b"\x00" * 12, "no IDX file"),
        (idx(noise(2, 3, 4))[:-1], "fewer values than the 2x3x4"),
        (idx(noise(2, 3, 4)) + b"x", "more values than"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "more than is read here"),
        (b"\x00\x00\x08\x03" + struct.pack(">3I", 1000, 1000, 1000), "fewer values"),
        (idx(noise(0, 3, 4)), "holds no images"),
        (idx(noise(7)), "holds no images"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, content: bytes, what: str) -> None:
    plain = tmp_path / "t-images-idx3-ubyte"
    plain.write_bytes(content)
    packed = tmp_path / "p-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(content))
    tracemalloc.start()
    for path in (plain, packed):
        with pytest.raises(UserError, match=what):
            open_images(path, GREY)
    assert tracemalloc.get_traced_memory()[1] < 50e6  # nothing is taken for what is only claimed
    tracemalloc.stop()


def test_a_damaged_gz_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "t-images-idx3-ubyte.gz"
    whole = gzip.compress(idx(noise(2, 30, 40)))
    for content in (whole[:-9], whole[:40] + b"\xff" * 40 + whole[80:], b"plain"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged or cut off"):
            read_idx(path)


# NumPy files


@pytest.mark.parametrize(
    "shape", [(3, 4, 5), (3, 4, 5, 1), (3, 1, 4, 5)], ids=["NHW", "NHW1", "N1HW"]
)
def test_grey_bytes_of_every_layout(tmp_path: Path, shape: tuple[int, ...]) -> None:
    raw = noise(3, 4, 5)
    np.save(tmp_path / "x.npy", raw.reshape(shape))
    images = everything(open_images(tmp_path / "x.npy", GREY))
    assert np.array_equal(images, raw[:, None].astype(np.float32) / 255)


def test_rgb_bytes_of_both_layouts(tmp_path: Path) -> None:
    raw = noise(2, 4, 5, 3)
    expected = raw.transpose(0, 3, 1, 2).astype(np.float32) / 255
    np.savez(tmp_path / "last.npz", images=raw, labels=[1, 0])
    np.savez(tmp_path / "first.npz", x=raw.transpose(0, 3, 1, 2), y=[1, 0])
    for name in ("last.npz", "first.npz"):
        images = open_images(tmp_path / name, PLAIN)
        assert np.array_equal(everything(images), expected)
        assert images.labels is not None
        assert images.labels.tolist() == [1, 0]


def test_floats_are_inputs_already(tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).normal(size=(3, 2, 4, 5))
    np.savez(tmp_path / "x.npz", x=inputs)
    for how in (None, READY):
        images = open_images(tmp_path / "x.npz", how)
        assert images.preprocessing == READY
        assert np.array_equal(everything(images), inputs.astype(np.float32))
    with pytest.raises(UserError, match="holds floats, which count as preprocessed already"):
        open_images(tmp_path / "x.npz", PLAIN)
    for bad in (np.nan, np.inf, 1e300):
        inputs[1, 0, 0, 0] = bad
        np.savez(tmp_path / "x.npz", x=inputs)
        with pytest.raises(UserError, match=r"image 1: holds NaN or infinity"):
            everything(open_images(tmp_path / "x.npz", None))


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"other": noise(2, 4, 4)}, "no .npz file with an array x or images"),
        ({"x": noise(0, 4, 4)}, "holds no images"),
        ({"x": noise(4, 4)}, "holds uint8 of shape"),
        ({"x": noise(2, 4, 4, 4)}, "holds uint8 of shape"),
        ({"x": noise(2, 3, 5, 3)}, "only one such side"),
        ({"x": np.zeros((2, 4, 4), np.float32)}, "holds float32 of shape"),
        ({"x": np.zeros((2, 4, 4), np.int64)}, "holds int64 of shape"),
        ({"x": np.array([{}])}, "Object arrays cannot be loaded"),
        ({"x": noise(2, 4, 4), "y": [1]}, r"labels of shape \(1,\) for 2 images"),
        ({"x": noise(2, 4, 4), "y": [0.5, 1]}, "no class indices"),
        ({"x": noise(2, 4, 4), "y": [-1, 1]}, "no class indices"),
        ({"x": noise(2, 4, 4), "y": [2**40, 1]}, "no class indices"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, arrays: dict[str, Any], what: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=what):
        open_images(tmp_path / "x.npz", GREY)


def test_an_npy_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(2, 4, 4))
    whole = (tmp_path / "x.npy").read_bytes()
    head = whole.replace(b"(2, 4, 4), }  ", b"(2, 4, 1<<40)}")
    huge = whole.replace(b"(2, 4, 4), }        ", b"(200000, 40000, 4),}")
    for content in (head, huge, head[:20], b""):
        (tmp_path / "x.npy").write_bytes(content)
        with pytest.raises(UserError, match=r"no \.npy file"):
            open_images(tmp_path / "x.npy", GREY)


# Labels in a file, subsets, hashes, calibration


def test_labels_in_a_file_of_their_own(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(3, 4, 4))
    np.save(tmp_path / "y.npy", [2, 0, 1])
    np.savez(tmp_path / "y.npz", labels=[2, 0, 1])
    (tmp_path / "y.txt").write_text("2\n0\n1\n")
    (tmp_path / "y-idx1-ubyte").write_bytes(idx(np.array([2, 0, 1], np.uint8)))
    for name in ("y.npy", "y.npz", "y.txt", "y-idx1-ubyte"):
        images = open_images(tmp_path / "x.npy", GREY, tmp_path / name)
        assert images.labels is not None
        assert images.labels.tolist() == [2, 0, 1]
    for text in ("2\n0\n", "a\nb\nc\n", "1 2\n3\n4\n", f"1\n2\n{'9' * 40}\n", "1\n2\n-3\n"):
        (tmp_path / "y.txt").write_text(text)
        with pytest.raises(UserError, match=r"y.txt: "):
            open_images(tmp_path / "x.npy", GREY, tmp_path / "y.txt")
    for name in ("none.txt", "."):
        with pytest.raises(UserError):
            open_images(tmp_path / "x.npy", GREY, tmp_path / name)


def test_a_subset_is_seeded_nested_and_spread_over_the_classes(tmp_path: Path) -> None:
    labels = np.array([0] * 90 + [1] * 9 + [2])
    np.savez(tmp_path / "x.npz", x=noise(100, 2, 2), y=labels)
    images = open_images(tmp_path / "x.npz", GREY)
    part = images.take(12, seed=1)
    assert part.labels is not None
    assert np.bincount(part.labels).tolist() in ([6, 5, 1], [5, 6, 1])
    assert part.picked.tolist() == sorted(part.picked.tolist())
    assert part.picked.tolist() == images.take(12, seed=1).picked.tolist()
    assert part.picked.tolist() != images.take(12, seed=2).picked.tolist()
    assert set(part.picked) < set(images.take(40, seed=1).picked)
    assert np.array_equal(everything(part), everything(images)[part.picked])
    assert len(images.take(1000)) == 100
    assert part.take(3).sha256 == part.take(3).sha256 != part.sha256


def test_the_hash_is_of_images_order_and_labels(tmp_path: Path) -> None:
    raw = noise(3, 4, 4)

    def hashed(**arrays: Any) -> str:
        np.savez(tmp_path / "x.npz", **arrays)
        return open_images(tmp_path / "x.npz", GREY).sha256

    hashes = {
        hashed(x=raw),
        hashed(x=raw[::-1]),
        hashed(x=raw, y=[0, 1, 2]),
        hashed(x=raw, y=[0, 2, 1]),
        hashed(x=raw[:2]),
        hashed(x=raw.reshape(3, 2, 8)),
    }
    assert len(hashes) == 6
    assert hashed(x=raw, other=1) == hashed(images=raw)
    for i, picture in enumerate(raw):
        save(picture, tmp_path / "d" / f"{i}.png")
    before = open_images(tmp_path / "d", GREY).sha256
    save(raw[0], tmp_path / "d" / "2.png")
    assert open_images(tmp_path / "d", GREY).sha256 != before


def test_what_calibration_says(tmp_path: Path) -> None:
    def opened(array: np.ndarray) -> ImageSet:
        np.save(tmp_path / "x.npy", array)
        return open_images(tmp_path / "x.npy", GREY)

    assert check_calibration(opened(noise(32, 4, 4)), 1) == []
    (warning,) = check_calibration(opened(noise(31, 4, 4)), 1)
    assert "31 images to calibrate with" in warning
    (warning,) = check_calibration(opened(noise(1, 4, 4)), 1)
    assert "1 image to calibrate with" in warning
    with pytest.raises(UserError, match="every image is of one colour"):
        check_calibration(opened(np.arange(40, dtype=np.uint8)[:, None, None].repeat(4, 1)), 1)
    with pytest.raises(UserError, match="all 40 images are the same"):
        check_calibration(opened(noise(1, 4, 4).repeat(40, 0)), 1)
    with pytest.raises(UserError, match=r"have 1 channel .* takes 3; .* --channels 3"):
        check_calibration(opened(noise(40, 4, 4)), 3)


def test_images_that_are_missing_or_not_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such file or folder"):
        open_images(tmp_path / "nowhere", PLAIN)
    with pytest.raises(UserError, match="--preprocess"):
        open_images(BUNDLED, None)
    with pytest.raises(UserError, match="images as bytes"):
        open_images(BUNDLED, READY)
    (tmp_path / "x.mp4").write_text("x")
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("x.mp4", "pipe.npz"):
        with pytest.raises(UserError, match="is no folder of images"):
            open_images(tmp_path / name, PLAIN)


def test_memory_does_not_grow_with_the_images_of_a_folder(tmp_path: Path) -> None:
    save(noise(64, 64, 3), tmp_path / "d" / "0.png")
    for i in range(1, 200):
        os.link(tmp_path / "d" / "0.png", tmp_path / "d" / f"{i}.png")
    images = open_images(tmp_path / "d", PLAIN)
    tracemalloc.start()
    for batch in images.batches(4):
        assert batch.shape == (4, 3, 64, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * batch.nbytes  # all of them would be 50 times that of a batch


def test_the_preprocessing_of_a_sidecar(tmp_path: Path) -> None:
    def write(name: str, **record: Any) -> None:
        (tmp_path / f"{name}.json").write_text(json.dumps(record))

    imagenet = PRESETS["imagenet"].to_dict()
    write("int8.onnx", calibration={"preprocessing": imagenet})
    write("int8.rtx.engine", source={"path": "int8.onnx", "sha256": "0"})
    write("fp32.onnx", source={"path": "fused.safetensors", "sha256": "0"})
    assert recorded_preprocessing(tmp_path / "int8.onnx") == PRESETS["imagenet"]
    assert recorded_preprocessing(tmp_path / "int8.rtx.engine") == PRESETS["imagenet"]
    assert recorded_preprocessing(tmp_path / "fp32.onnx") is None
    assert recorded_preprocessing(tmp_path / "nothing.onnx") is None
    for bad in (1, {}, {"preprocessing": None}, {"preprocessing": {**imagenet, "crop": -1}}):
        write("int8.onnx", calibration=bad)
        with pytest.raises(UserError, match=r"int8.onnx.json: is damaged"):
            recorded_preprocessing(tmp_path / "int8.onnx")
