from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from hwnas.errors import DamagedImagesError, DataError
from hwnas.images import fitted
from hwnas.training.data import SPLITS, Check, Dataset, Split, describe_dataset, load_dataset
from hwnas.training.data import digits as digits_module
from hwnas.training.data import folders as folders_module
from hwnas.training.data.stored import MOST_WORKERS, Held, Streamed
from tests.conftest import TINY, Command, write_config

from .small import SMALL


def write_images(folder: Path, n: int, value: int, size: tuple[int, int] = (20, 14)) -> None:
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", size, (value, i, 255 - value)).save(folder / f"{i:02}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, n in (("train", 20), ("val", 5), ("test", 4)):
        for value, name in enumerate(("cat", "dog")):
            write_images(tmp_path / split / name, n, 100 * value)
    return tmp_path


def load(folder: Path, split: Split = "train", seed: int = 0, size: int = 8, **more: Any) -> Dataset:
    return load_dataset("imagefolder", split, seed, path=str(folder), size=size, **more)


def test_imagefolder(folder: Path) -> None:
    (folder / "train" / "cat" / ".hidden").write_text("not an image")
    Image.new("L", (9, 30), 77).save(folder / "train" / "dog" / "grey.jpg")
    train, validation, test = (load(folder, split) for split in SPLITS)
    assert [len(data) for data in (train, validation, test)] == [41, 10, 8]
    assert train.classes == test.classes == ("cat", "dog")
    assert train.labels.bincount().tolist() == [20, 21]
    assert train.images.shape == (41, 3, 8, 8)
    pixels = train.images * torch.tensor(train.std)[:, None, None] + torch.tensor(train.mean)[:, None, None]
    torch.testing.assert_close(pixels[3, :, 0, 0] * 255, torch.tensor([0.0, 3.0, 255.0]), rtol=0, atol=1e-2)


def test_a_dataset_is_described_without_an_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in folder.rglob("*.png"):
        file.write_bytes(b"nonsense")
    assert describe_dataset("imagefolder", 0, {"path": str(folder), "size": 8}) == (("cat", "dog"), 3)
    monkeypatch.setattr(digits_module, "_placed", lambda *_: pytest.fail("made"))
    assert describe_dataset("cluttered-digits", 0, {}) == (tuple("0123456789"), 1)


def test_datasets_say_how_they_prepare(folder: Path) -> None:
    words = load(folder).subset(2, rng=0).preparation
    assert "the shorter side resized to 8 pixels" in words
    assert "the centre of 8×8 kept" in words
    assert load_dataset("cluttered-digits", **SMALL).preparation == "grey scenes of 24×24 pixels"


def read_one(folder: Path, image: Image.Image, name: str, **how: Any) -> np.ndarray:
    """The pixels, (3, 8, 8) in 0…255, that imagefolder makes of an image."""
    for other in ("cat", "dog"):
        write_images(folder / "train" / other, 4, 0)
    image.save(folder / "train" / "cat" / name, **how)
    data = load(folder)
    pixels = data.images * torch.tensor(data.std)[:, None, None] + torch.tensor(data.mean)[:, None, None]
    names = [f.name for f in sorted((folder / "train" / "cat").iterdir())]
    return np.rint(pixels[names.index(name)].numpy() * 255)


@pytest.mark.parametrize("kept", ["png", "tif"])
def test_grey_of_16_bits_keeps_its_range(tmp_path: Path, kept: str) -> None:
    add_test_folders(tmp_path)
    ramp = np.linspace(0, 65535, 8).round().astype(np.uint16)
    image = Image.fromarray(np.tile(ramp, (8, 1)))
    found = read_one(tmp_path, image, f"deep.{kept}")
    assert np.array_equal(found, np.broadcast_to(np.rint(ramp / 257.0), (3, 8, 8)))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_an_image_of_unknown_range_is_refused(tmp_path: Path, dtype: type) -> None:
    add_test_folders(tmp_path)
    with pytest.raises(DataError, match=r"deep\.tif \(mode [IF] .*convert it to 8 or 16 bits\)"):
        read_one(tmp_path, Image.fromarray(np.full((8, 8), 70000, dtype)), "deep.tif")


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    red, clear = (255, 0, 0), np.zeros((8, 8, 4), np.uint8)
    clear[:, :, :3] = red
    clear[:, 4:, 3] = 255
    expected = np.full((3, 8, 8), 255.0)
    expected[1:, :, 4:] = 0
    palette = Image.new("P", (8, 8))
    palette.putpalette([0, 0, 0, *red])
    palette.paste(1, (4, 0, 8, 8))
    grey = Image.new("LA", (8, 8), (9, 0))
    for i, (image, how, wanted) in enumerate(
        [
            (Image.fromarray(clear), {}, expected),
            (palette, {"transparency": 0}, expected),
            (palette, {"transparency": b"\x00\xff"}, expected),
            (grey, {}, np.full((3, 8, 8), 255.0)),
        ]
    ):
        add_test_folders(tmp_path / str(i))
        assert np.array_equal(read_one(tmp_path / str(i), image, "clear.png", **how), wanted)


def add_test_folders(folder: Path) -> None:
    for split in ("val", "test"):
        for name in ("cat", "dog"):
            write_images(folder / split / name, 1, 9)


def drop(folder: Path, *splits: str) -> None:
    for split in splits:
        shutil.rmtree(folder / split)


def test_missing_splits_are_held_out_of_train(folder: Path) -> None:
    drop(folder, "val", "test")
    parts = [load(folder, split, seed=4) for split in SPLITS]
    assert sum(len(data) for data in parts) == 40
    assert all(set(data.labels.tolist()) == {0, 1} for data in parts)
    found = {tuple(image.flatten().tolist()) for data in parts for image in data.images}
    assert len(found) == 40
    assert load(folder, "test", seed=4).checksum == parts[2].checksum != load(folder, "test", seed=5).checksum


@settings(max_examples=50, deadline=None)
@given(st.integers(3, 60), st.integers(0, 2**32), st.sampled_from([("test",), ("validation", "test")]))
def test_every_split_has_an_image_and_no_image_is_in_two(
    n: int, seed: int, missing: tuple[Split, ...]
) -> None:
    files = [f"{i}.png" for i in range(n)]
    held = folders_module._held_out("cat", files, missing, seed)
    assert set(held) == set(missing)
    assert all(held.values())
    together = [file for part in held.values() for file in part]
    assert len(set(together)) == len(together) < n


def test_an_image_stays_in_its_split_when_others_are_added() -> None:
    files = [f"{i}.png" for i in range(4000)]
    every = folders_module._held_out("cat", files, ("validation", "test"), 0)
    some = folders_module._held_out("cat", files[::2], ("validation", "test"), 0)
    only = folders_module._held_out("cat", files, ("test",), 0)
    for split, held in every.items():
        assert 0.08 < len(held) / len(files) < 0.12
        assert some[split] == [file for file in held if file in set(files[::2])]
    assert only["test"] == every["test"]  # a folder for validation does not change test
    assert folders_module._held_out("dog", files, ("test",), 0)["test"] != only["test"]


def test_imagefolder_says_what_is_wrong(folder: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        load(folder / "nowhere")
    with pytest.raises(DataError, match="size is 0"):
        load(folder, size=0)
    (folder / "train" / "cat" / "broken.png").write_bytes(b"nonsense")
    with pytest.raises(
        DataError, match=r"cannot read 1 file as images: \S+broken\.png \(no known image format"
    ):
        load(folder)
    cut = (folder / "train" / "cat" / "00.png").read_bytes()[:40]
    (folder / "train" / "cat" / "broken.png").write_bytes(cut)
    with pytest.raises(DataError, match=r"broken\.png"):
        load(folder)
    (folder / "train" / "cat" / "broken.png").unlink()
    (folder / "val" / "mouse").mkdir()
    with pytest.raises(DataError, match="mouse is empty"):
        load(folder)
    write_images(folder / "test" / "mouse", 1, 9)
    (folder / "val" / "mouse").rmdir()
    with pytest.raises(DataError, match="different classes: mouse"):
        load(folder)


def test_a_class_whose_name_is_not_utf8_is_refused_before_any_work(
    folder: Path, tmp_path: Path, hwnas_command: Command
) -> None:
    os.rename(folder / "train" / "cat", os.fsencode(folder / "train" / "caf") + b"\xe9")
    with pytest.raises(DataError, match=r"the class folder .*/train/caf\udce9 is not UTF-8; rename it"):
        load(folder)
    config = write_config(tmp_path)
    data = {"name": "imagefolder", "path": str(folder), "size": 16}
    config.write_text(yaml.safe_dump({**TINY, "data": data}))
    code, _, err = hwnas_command("run", config, "--run-dir", tmp_path / "run")
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "/train/caf\ufffd is not UTF-8; rename it" in err
    assert not (tmp_path / "run" / "latency_table.json").exists()


def test_one_class_and_too_few_images_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "cat", 2, 0)
    with pytest.raises(DataError, match="1 class folders; at least 2"):
        load(tmp_path)
    write_images(tmp_path / "train" / "dog", 9, 9)
    with pytest.raises(DataError, match="cat has 2 images, too few to hold out 1 for each of val, test"):
        load(tmp_path)


def test_more_than_the_memory_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"GiB of memory, .*; lower data\.memory_mb below \d+, so that"):
        load(folder, size=200_000, memory_mb=2**40)


# ---- streams -------------------------------------------------------------------------------------

LARGE = {"size": 100, "memory_mb": 1}  # 28.6 KiB an image: 36 in a MiB


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """80 noisy images to train with, 5 to validate, all different."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 40), ("val", 5), ("test", 5)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i:02}.png")
    return tmp_path


def test_a_stream_gives_what_memory_gives(photos: Path) -> None:
    held, streamed = load(photos, size=100), load(photos, **LARGE)
    assert isinstance(held.stored, Held)
    assert isinstance(streamed.stored, Streamed)
    assert isinstance(load(photos, "test", **LARGE).stored, Held)  # 10 images fit
    assert len(streamed) == 80
    assert streamed.stored.shape == held.stored.shape == (80, 3, 100, 100)
    rng = np.random.default_rng(1)
    asked = [rng.integers(0, 80, n) for n in (7, 1, 16, 30, 5, 9, 80, 2)]
    together = zip(held.stream(asked), streamed.stream(asked), strict=True)
    for indices, ((images, labels), (others, again)) in zip(asked, together, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, again)
        assert torch.equal(images, held.images[indices])
    for (images, labels), (others, again) in zip(held.batches(32, 8), streamed.batches(32, 8), strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, again)


def test_an_endless_stream_is_read_no_further_than_a_little_ahead(photos: Path) -> None:
    state = torch.random.get_rng_state()
    asked: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        for i in itertools.count():
            asked.append(i)
            yield np.array([i % 80, (i + 1) % 80])

    stream = load(photos, **LARGE).stream(endless())
    for i in range(5):
        assert next(stream)[1].tolist() == [int(i >= 40), int(i + 1 >= 40)]
    assert 5 <= len(asked) < 5 + 4 * MOST_WORKERS
    workers = multiprocessing.active_children()
    assert workers
    stream.close()
    for worker in workers:
        worker.join(20)
        assert not worker.is_alive()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_subset_of_a_stream_is_held_if_it_fits(photos: Path) -> None:
    held, streamed = load(photos, size=100), load(photos, **LARGE)
    small, large = streamed.subset(20, rng=3), streamed.subset(60, rng=3)
    assert isinstance(small.stored, Held)
    assert isinstance(large.stored, Streamed)
    for n, subset in ((20, small), (60, large)):
        expected = held.subset(n, rng=3)
        assert torch.equal(torch.cat([images for images, _ in subset.batches(16)]), expected.images)
        assert torch.equal(subset.labels, expected.labels)
    assert small.checksum == held.subset(20, rng=3).checksum
    assert len({streamed.checksum, large.checksum, streamed.subset(60, rng=4).checksum}) == 3
    with pytest.raises(DataError, match=r"the 60 images are streamed .*; take them by stream\(\)"):
        _ = large.images


def test_the_checksum_of_a_stream_tells_files_by_name_and_size(photos: Path) -> None:
    before = load(photos, **LARGE).checksum
    assert load(photos, **LARGE).checksum == before
    file = photos / "train" / "dog" / "07.png"
    file.rename(file.with_name("07b.png"))
    renamed = load(photos, **LARGE).checksum
    file.with_name("07b.png").rename(file)
    file.write_bytes(file.read_bytes() + b"!")
    assert len({before, renamed, load(photos, **LARGE).checksum}) == 3
    gone = load(photos, **LARGE)
    file.unlink()
    with pytest.raises(DataError, match=r"cannot read \S+07\.png: No such file"):
        _ = gone.checksum


def test_a_damaged_image_of_a_stream_is_named(photos: Path) -> None:
    (photos / "train" / "dog" / "03.png").write_bytes(b"nonsense")
    data = load(photos, **LARGE)
    stream = data.stream(np.array([i]) for i in range(80))
    assert [int(next(stream)[1]) for _ in range(43)] == [0] * 40 + [1] * 3
    with pytest.raises(
        DataError, match=r"^imagefolder: cannot read \S+03\.png as an image: .*; restore it"
    ) as raised:
        next(stream)
    assert "\n" not in str(raised.value)
    assert "Traceback" not in str(raised.value)


def test_a_worker_that_is_killed_is_reported(photos: Path) -> None:
    stream = load(photos, **LARGE).stream(np.arange(20) for _ in itertools.count())
    next(stream)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(DataError, match=r"a process that decodes images ended .*; make memory free"):
        for _ in stream:
            pass


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "much"])
def test_a_memory_that_is_none_is_refused(photos: Path, wrong: object) -> None:
    with pytest.raises(DataError, match=r"memory_mb is .*; give a positive number of MiB"):
        load(photos, memory_mb=wrong)


# ---- decoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    """An image stored in any of the eight orientations looks as it does upright."""
    quarters = np.zeros((64, 64, 3), np.uint8)
    quarters[:32, :32], quarters[:32, 32:], quarters[32:, :32] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    turn = Image.Transpose
    undone = (None, turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM)
    undone += (turn.TRANSPOSE, turn.ROTATE_90, turn.TRANSVERSE, turn.ROTATE_270)
    image = Image.fromarray(quarters)
    if (change := undone[orientation - 1]) is not None:
        image = image.transpose(change)
    add_test_folders(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_one(tmp_path, image, "turned.jpg", exif=exif, quality=95)
    expected = quarters[4::8, 4::8].transpose(2, 0, 1)
    inner = np.ix_(range(3), [1, 2, 5, 6], [1, 2, 5, 6])  # away from where the quarters meet
    assert np.abs(found[inner] - expected[inner]).max() < 12


def test_a_jpeg_is_read_as_a_png_of_the_same_pixels(tmp_path: Path) -> None:
    """The reader of today decodes at full size; the old one does not, and streams tell the two apart."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            noise = Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8))
            noise.save(tmp_path / split / name / "0.jpg", quality=80)
            with Image.open(tmp_path / split / name / "0.jpg") as photo:
                photo.save(tmp_path / split / name / "1.png")
    data = load(tmp_path)
    assert data.reader == "full"
    assert torch.equal(data.images[0], data.images[1])
    assert "JPEG decoded at full size" in data.preparation
    old = load(tmp_path, reader="draft")
    assert not torch.equal(old.images[0], old.images[1])
    assert torch.equal(old.images[1], data.images[1])
    streams = [load(tmp_path, size=600, memory_mb=1, reader=reader) for reader in ("full", "draft")]
    assert streams[0].checksum != streams[1].checksum
    with pytest.raises(DataError, match=r"unknown reader 'drafd'; known: full, draft .did you mean 'draft'"):
        load(tmp_path, reader="drafd")


def test_the_old_reader_decodes_a_large_jpeg_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int]] = []
    fit = ImageOps.fit

    def spy(image: Image.Image, *rest: Any) -> Image.Image:
        decoded.append(image.size)
        return fit(image, *rest)

    monkeypatch.setattr(ImageOps, "fit", spy)
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (128, 256, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "large.jpg", quality=95)
    for reader, size in (("full", (256, 128)), ("draft", (32, 16))):
        found = folders_module.Photos(tmp_path, [b"large.jpg"], 8, reader)[0].numpy()
        assert decoded.pop() == size
        assert np.abs(found - np.arange(71.5, 192, 16)).max() < 4


# ---- which files count ---------------------------------------------------------------------------


def names_of(data: Dataset) -> list[str]:
    """The names, relative to the folder of the split, of the files of a stream."""
    assert isinstance(data.stored, Streamed)
    items = data.stored.items
    assert isinstance(items, folders_module.Photos)
    return [os.fsdecode(items.names[i]) for i in data.stored.chosen]


def test_images_in_folders_below_a_class_folder_belong_to_the_class(folder: Path) -> None:
    write_images(folder / "train" / "cat" / "persian" / "white", 3, 50)
    write_images(folder / "train" / "cat" / "siamese", 2, 60)
    write_images(folder / "elsewhere", 2, 70)
    (folder / "train" / "dog" / "more").symlink_to(folder / "elsewhere")
    data = load(folder)
    assert data.labels.bincount().tolist() == [25, 22]
    names = names_of(load(folder, size=300, memory_mb=1))
    assert names[20:25] == [
        "cat/persian/white/00.png", "cat/persian/white/01.png", "cat/persian/white/02.png",
        "cat/siamese/00.png", "cat/siamese/01.png",
    ]  # fmt: skip
    assert names[-2:] == ["dog/more/00.png", "dog/more/01.png"]
    assert len(load(folder, reader="draft")) == 40  # the images that older runs were trained on
    (folder / "train" / "cat" / "siamese" / "around").symlink_to(folder / "train" / "cat")
    with pytest.raises(DataError, match=r"cat/siamese/around is a link to a folder around it; remove"):
        load(folder)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_folder_for_validation_has_one_of_three_names(folder: Path, name: str) -> None:
    (folder / "val").rename(folder / name)
    assert len(load(folder, "validation")) == 10
    assert len(load(folder)) == 40
    old = load(folder, "validation", reader="draft")
    assert (len(old), len(load(folder, reader="draft"))) == ((10, 40) if name == "val" else (6, 34))


def test_two_folders_for_validation_are_refused(folder: Path) -> None:
    shutil.copytree(folder / "val", folder / "validation")
    with pytest.raises(DataError, match="has val and validation, all for validation; keep one"):
        load(folder)


@pytest.mark.parametrize("place", ["train/cat/gone.png", "train/dog/far/gone.png", "train/bird", "val"])
def test_links_that_lead_nowhere_are_refused_by_name(folder: Path, place: str) -> None:
    if place == "val":
        drop(folder, "val")
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).symlink_to(folder / "nothing")
    with pytest.raises(DataError, match=rf"1 link to files .* not exist: \S+{place}; restore what they name"):
        load(folder)


def test_every_link_that_leads_nowhere_is_named(folder: Path) -> None:
    for name in ("a.png", "b.png"):
        (folder / "train" / "cat" / name).symlink_to(name)  # a link to itself
    with pytest.raises(DataError, match=r"2 links to files .*cat/a\.png, \S+cat/b\.png; restore"):
        load(folder)


def test_what_operating_systems_leave_behind_is_no_image(folder: Path) -> None:
    for name in ("Thumbs.db", "desktop.ini", "Desktop.ini", ".DS_Store", "Icon\r"):
        (folder / "train" / "cat" / name).write_bytes(b"clutter")
    (folder / "train" / "Thumbs.db").write_bytes(b"clutter")
    (folder / "train" / "__MACOSX").mkdir()
    (folder / "train" / "dog" / "@eaDir").mkdir()
    (folder / "train" / "dog" / "@eaDir" / "thumbnail.jpg").write_bytes(b"clutter")
    assert load(folder).labels.bincount().tolist() == [20, 20]


def test_one_line_says_how_many_images_each_split_has(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hwnas.data")
    for split in SPLITS:
        load(folder, split)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        (
            "INFO",
            f"imagefolder {folder}: train 40 images of 2 classes; validation 10 images of 2 classes; test 8 "
            "images of 2 classes",
        )
    ]
    caplog.clear()
    drop(folder, "val")
    (folder / "Test2").mkdir()
    (folder / "train" / "labels.csv").write_text("cat")
    load(folder)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert (
        "train 34 images of 2 classes; validation 6 images of 2 classes (held out of train);"
        in record.message
    )
    assert record.message.endswith("not used: folder Test2, 1 file of train outside class folders")


# ---- damaged files -------------------------------------------------------------------------------


def damage(photos: Path, *names: str) -> list[Path]:
    """Cut files short, or write a text where there is none."""
    files = [photos / name for name in names]
    for file in files:
        file.write_bytes(file.read_bytes()[:60] if file.exists() else b"not an image")
    return files


@pytest.mark.parametrize("how", [{"size": 8}, LARGE], ids=["in memory", "streamed"])
def test_damaged_files_are_listed_together_or_left_out(
    photos: Path, how: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    whole = load(photos, **how)
    bad = damage(photos, "train/cat/07.png", "train/cat/notes.txt", "train/dog/00.png", "train/dog/39.png")
    with pytest.raises(
        DamagedImagesError, match=r"cannot read 4 files as images: .*; repair them, or leave"
    ) as error:
        load(photos, **how).stored.checked(Check())
    assert [Path(file) for file in error.value.files] == bad
    assert "notes.txt (no known image format)" in str(error.value)
    data = load(photos, skip_damaged=True, **how)
    (message,) = [record.message for record in caplog.records if record.name == "hwnas"]
    assert "left out 4 of 81 files that cannot be read as images: " in message
    assert all(str(file) in message for file in bad)
    assert data.stored.left_out == {"cat/07.png": 7, "cat/notes.txt": 40, "dog/00.png": 41, "dog/39.png": 80}
    assert (len(data), data.labels.tolist()) == (77, [0] * 39 + [1] * 38)
    kept = np.delete(np.arange(80), [7, 40, 79])
    (images, labels), (expected, _) = next(data.stream([np.arange(77)])), next(whole.stream([kept]))
    assert torch.equal(images, expected)
    assert torch.equal(labels, data.labels)
    bad[0].unlink()  # files that were left out once are left out, whatever becomes of them
    shutil.copy(photos / "train/dog/05.png", bad[2])
    again = load(photos, left_out={"train": sorted(data.stored.left_out)}, **how)
    assert again.checksum == data.checksum
    assert again.stored.left_out == data.stored.left_out


def test_a_class_without_a_readable_image_is_refused(photos: Path) -> None:
    damage(photos, *(f"val/dog/{i:02}.png" for i in range(5)))
    with pytest.raises(
        DataError, match=r"no image of class dog of validation can be read; repair files of \S+val/dog"
    ):
        load(photos, "validation", skip_damaged=True)


def test_files_that_were_checked_are_not_decoded_again_until_they_change(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def spy(file: Path, *rest: Any) -> Image.Image:
        decoded.append(file.name)
        return fitted(file, *rest)

    monkeypatch.setattr(folders_module, "fitted", spy)
    told: list[tuple[int, int, str]] = []
    check = Check(tmp_path / "checked.npy", lambda *progress: told.append(progress))

    def checked() -> list[str]:
        decoded.clear()
        load(photos, **LARGE).stored.checked(check)
        return sorted(decoded)

    assert len(checked()) == 80
    assert told == [(80, 80, "checking image files")]
    assert checked() == []
    (photos / "train" / "cat" / "12.png").write_bytes((photos / "train" / "dog" / "03.png").read_bytes())
    assert checked() == ["12.png"]
    damage(photos, "train/cat/04.png")
    for _ in range(2):
        with pytest.raises(DamagedImagesError, match=r"cannot read 1 file as images: \S+cat/04\.png"):
            checked()
        assert decoded == ["04.png"]
    (photos / "train/cat/04.png").write_bytes((photos / "test/dog/01.png").read_bytes())
    (photos / "moved").mkdir()
    for split in ("train", "val", "test"):
        (photos / split).rename(photos / "moved" / split)
    decoded.clear()
    load(photos / "moved", **LARGE).stored.checked(check)
    assert decoded == ["04.png"]  # a moved folder is the same, and this file is repaired
    (tmp_path / "checked.npy").write_bytes(b"damaged")
    decoded.clear()
    load(photos / "moved", **LARGE).stored.checked(check)
    assert len(decoded) == 80


@pytest.mark.parametrize(
    "wrong", ["cat/1.png", {"train": "cat/1.png"}, {"training": []}, {"train": ["1.png"]}, {"test": [3]}]
)
def test_left_out_has_names_by_split(photos: Path, wrong: object) -> None:
    with pytest.raises(DataError, match=r"left_out (is|names) .*; give lists"):
        load(photos, left_out=wrong)


def test_skip_damaged_is_true_or_false(photos: Path) -> None:
    with pytest.raises(DataError, match="skip_damaged is 'yes'; give true or false"):
        load(photos, skip_damaged="yes")


def test_a_file_that_cannot_be_opened_is_not_left_out(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of a disk that is gone are not damaged."""

    def refuse(file: Any, *rest: Any) -> Image.Image:
        raise DataError(f"cannot read {file} as an image: Stale file handle")

    monkeypatch.setattr(folders_module, "fitted", refuse)
    with pytest.raises(DataError, match="Stale file handle") as error:
        load(photos, skip_damaged=True)
    assert not isinstance(error.value, DamagedImagesError)
