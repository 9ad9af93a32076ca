"""Batches to train on: order, parts, resumption, workers, and what ends them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from repvgg_deploy.data.augment.augmentation import NONE, Augmentation
from repvgg_deploy.data.batch import Batch
from repvgg_deploy.data.image_set import ImageSet, open_images
from repvgg_deploy.data.loader import TrainingBatches, ValidationBatches
from repvgg_deploy.data.preprocessing import READY, Preprocessing
from repvgg_deploy.errors import UserError
from repvgg_deploy.train.batch import Batches

PLAIN = Preprocessing(None, (8, 8), "bilinear", 3, (0.0,) * 3, (1.0,) * 3)
EVERYTHING = Augmentation(flip=True, crop="shift", randaugment=(2, 9))
IMAGES = 26


def pictures(count: int = IMAGES) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    """Every image has its number as its label."""
    np.savez(tmp_path / "x.npz", x=pictures(), y=np.arange(IMAGES))
    return open_images(tmp_path / "x.npz", PLAIN)


@pytest.fixture
def files(tmp_path: Path) -> ImageSet:
    for number, picture in enumerate(pictures(12)):
        path = tmp_path / "folder" / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return open_images(tmp_path / "folder", PLAIN)


def batches(images: ImageSet, augmentation: Augmentation = NONE, **settings: int) -> Batches:
    return TrainingBatches(images, augmentation, **{"batch": 4, "seed": 3, **settings})


def numbers(found: Iterator[Batch]) -> list[list[int]]:
    """The labels of each batch, which are the numbers of the images."""
    return [batch.labels.tolist() for batch in found if batch.labels is not None]


def same(left: Iterator[Batch], right: Iterator[Batch]) -> bool:
    pairs = list(zip(left, right, strict=True))
    return len(pairs) > 0 and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs
    )


# Order and parts


def test_an_epoch_has_every_image_once_but_for_the_rest(images: ImageSet) -> None:
    found = batches(images)
    assert len(found) == 6
    first, second = (numbers(found.epoch(epoch)) for epoch in (0, 1))
    for epoch in (first, second):
        assert [len(batch) for batch in epoch] == [4] * 6
        assert len({number for batch in epoch for number in batch}) == 24
    assert first != second
    assert numbers(found.epoch(0)) == first
    assert numbers(batches(images, seed=4).epoch(0)) != first


def test_without_augmentation_training_sees_what_evaluation_sees(images: ImageSet) -> None:
    expected = np.concatenate(list(images.batches(10)))
    for batch in batches(images).epoch(5):
        assert batch.images.dtype == torch.float32
        assert batch.labels is not None and batch.labels.dtype == torch.int64
        assert np.array_equal(batch.images.numpy(), expected[batch.labels.numpy()])


def test_augmentation_changes_with_the_epoch(images: ImageSet) -> None:
    found = batches(images, EVERYTHING, batch=IMAGES)
    (first,), (second,) = list(found.epoch(0)), list(found.epoch(1))
    a, b = (x.images[x.labels.argsort()] for x in (first, second))  # type: ignore[union-attr]
    assert not torch.equal(a, b)


def test_processes_share_a_batch_in_the_order_of_one(images: ImageSet) -> None:
    whole = batches(images, EVERYTHING).epoch(2)
    parts = [batches(images, EVERYTHING, rank=rank, world=2).epoch(2) for rank in (0, 1)]
    joined = (
        Batch(torch.cat([a.images, b.images]), torch.cat([a.labels, b.labels]))
        for a, b in zip(*parts, strict=True)
    )
    assert same(whole, joined)


def test_an_image_draws_the_same_in_any_subset(images: ImageSet) -> None:
    """Its number in the source counts, not its place."""
    one = images.only(np.array([7]))
    (alone,) = batches(one, EVERYTHING, batch=1).epoch(3)
    (among,) = batches(images, EVERYTHING, batch=IMAGES).epoch(3)
    assert among.labels is not None
    assert torch.equal(alone.images[0], among.images[among.labels.tolist().index(7)])


def test_an_epoch_goes_on_at_any_batch(images: ImageSet) -> None:
    found = batches(images, EVERYTHING)
    for first in (0, 2, 5):
        assert same(found.epoch(1, first), iter(list(found.epoch(1))[first:]))
    assert list(found.epoch(1, 6)) == []


def test_batches_before_the_first_are_not_decoded(files: ImageSet) -> None:
    found = batches(files, NONE)
    order = np.random.default_rng((3, 0, 0, 1)).permutation(12)
    for place in order[:8].tolist():
        Path(files.source.name(place)).unlink()
    assert len(list(found.epoch(0, 2))) == 1
    with pytest.raises(UserError, match="cannot be decoded"):
        list(found.epoch(0, 1))


def test_labels_that_are_not_known(images: ImageSet) -> None:
    (batch, *_) = batches(replace(images, labels=None)).epoch(0)
    assert batch.labels is None


def test_the_random_numbers_of_the_process_are_left_alone(images: ImageSet) -> None:
    before = torch.get_rng_state()
    list(batches(images).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


# Refusals


def test_a_batch_has_to_be_shared_evenly(images: ImageSet) -> None:
    with pytest.raises(UserError, match="--batch 4: cannot be divided among 3 processes"):
        batches(images, world=3)


def test_fewer_images_than_a_batch(images: ImageSet) -> None:
    with pytest.raises(UserError, match=r"x.npz: has 26 images .* fewer than a batch of 27"):
        batches(images, batch=27)


def test_floats_cannot_be_augmented(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((8, 3, 8, 8), np.float32), y=np.arange(8))
    ready = open_images(tmp_path / "x.npz", READY)
    with pytest.raises(UserError, match="holds floats"):
        batches(ready, Augmentation(flip=True))
    assert len(list(batches(ready).epoch(0))) == 2


def test_a_random_part_needs_a_size(images: ImageSet) -> None:
    sizeless = replace(images, preprocessing=PLAIN.changed({"crop": None}))
    with pytest.raises(UserError, match="random part needs a size"):
        batches(sizeless, Augmentation(crop="resized"))


def test_images_of_other_sizes(files: ImageSet) -> None:
    Image.fromarray(pictures(1)[0, :7]).save(files.source.name(5))
    sizeless = replace(files, preprocessing=PLAIN.changed({"crop": None}))
    with pytest.raises(UserError, match=r"png: is 7x8 pixels|first image 7x8"):
        list(batches(sizeless, Augmentation(crop="shift")).epoch(0))


# Validation


@pytest.mark.parametrize("world", [1, 3, 40])
def test_processes_validate_on_every_image_once(images: ImageSet, world: int) -> None:
    expected = np.concatenate(list(images.batches(10)))
    seen: list[int] = []
    for rank in range(world):
        part = ValidationBatches(images, 5, rank=rank, world=world)
        found = list(part)
        assert len(found) == len(part) == len(list(part))
        for batch in found:
            assert batch.labels is not None
            assert np.array_equal(batch.images.numpy(), expected[batch.labels.numpy()])
            seen += batch.labels.tolist()
    assert seen == list(range(IMAGES))


# Worker processes


def test_workers_change_nothing(images: ImageSet) -> None:
    """Nor what this process does when some child of it ends: it goes on after training."""
    one, two = batches(images, EVERYTHING), batches(images, EVERYTHING, workers=2)
    before = signal.getsignal(signal.SIGCHLD)
    assert same(two.epoch(0), one.epoch(0))
    assert signal.getsignal(signal.SIGCHLD) is before
    next(two.epoch(1))  # what is left of it is dropped
    assert same(two.epoch(2, 3), one.epoch(2, 3))


def test_an_image_that_vanishes_is_named_by_a_worker(files: ImageSet) -> None:
    gone = Path(files.source.name(7))
    validation = ValidationBatches(files, 4, workers=1)
    assert len(list(validation)) == 3
    gone.unlink()
    with pytest.raises(UserError) as error:
        list(validation)
    assert str(error.value).startswith(f"{gone}: cannot be decoded")
    assert "Traceback" not in str(error.value)


def test_a_worker_that_is_killed(images: ImageSet) -> None:
    before = {process.pid for process in multiprocessing.active_children()}
    found = batches(images, NONE, batch=2, workers=1).epoch(0)
    next(found)
    (worker,) = [p for p in multiprocessing.active_children() if p.pid not in before]
    os.kill(worker.pid, signal.SIGKILL)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"--workers 1: .*has ended.*fewer --workers.*--resume"):
        list(found)


def test_a_worker_that_is_killed_between_two_epochs(images: ImageSet) -> None:
    before = {process.pid for process in multiprocessing.active_children()}
    found = batches(images, NONE, batch=2, workers=1)
    assert len(list(found.epoch(0))) == 13
    (worker,) = [p for p in multiprocessing.active_children() if p.pid not in before]
    worker.kill()
    worker.join()
    with pytest.raises(UserError, match=r"--workers 1: .*has ended.*fewer --workers.*--resume"):
        list(found.epoch(1))


def test_workers_do_not_hear_ctrl_c(images: ImageSet) -> None:
    before = {process.pid for process in multiprocessing.active_children()}
    found = batches(images, NONE, batch=2, workers=1).epoch(0)
    next(found)
    (worker,) = [p for p in multiprocessing.active_children() if p.pid not in before]
    os.kill(worker.pid, signal.SIGINT)  # type: ignore[arg-type]
    assert len(list(found)) == 12
