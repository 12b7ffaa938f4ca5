import errno
import io
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import Images
from pipeline.store.errors import UserError
from pipeline.store.files import digest_file, read_npy
from pipeline.training import images as module
from pipeline.training.images import CHANNELS, BadImage, cached, decode, digest_bytes, load

RGB8 = Images(channels="rgb", depth=8)
LOSSLESS = {".webp": [cv2.IMWRITE_WEBP_QUALITY, 101]}
TO_CV = {1: None, 3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}


def pixels(channels, dtype=np.uint8, size=(6, 10), seed=0):
    # Alpha stays above 0: WebP is free to change the colour of what nobody sees.
    return np.random.default_rng(seed).integers(1, np.iinfo(dtype).max + 1, (*size, channels)).astype(dtype)


def encode(image, ext):
    code = TO_CV[image.shape[2]]
    done, data = cv2.imencode(ext, image if code is None else cv2.cvtColor(image, code), LOSSLESS.get(ext, []))
    assert done
    return data.tobytes()


def expected(image, channels, depth):
    if image.dtype == np.uint8 and depth == 16:
        image = image.astype(np.uint16) * 257
    if image.dtype == np.uint16 and depth == 8:
        image = np.floor(image / 65535 * 255 + 1e-9).astype(np.uint8)
    colour, alpha = image[:, :, :3], image[:, :, 3:]
    if channels == "grey":
        return colour if colour.shape[2] == 1 else colour @ [[0.299], [0.587], [0.114]]
    colour = colour if colour.shape[2] == 3 else colour.repeat(3, 2)
    full = np.full_like(colour[:, :, :1], np.iinfo(image.dtype).max)
    return colour if channels == "rgb" else np.concatenate([colour, alpha if alpha.size else full], 2)


def check(out, image, channels, depth):
    assert out.dtype == (np.uint8 if depth == 8 else np.uint16)
    assert out.shape == (*image.shape[:2], CHANNELS[channels])
    # A weighted sum of colours is rounded (half a level, and OpenCV's weights are short); all else is exact.
    near = (0 if image.shape[2] == 1 else 0.51 if depth == 8 else 3) if channels == "grey" else 0
    assert np.abs(out - expected(image, channels, depth)).max() <= near


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("have", [1, 3, 4])
@pytest.mark.parametrize("ext, bits", [(".png", 8), (".png", 16), (".tiff", 8), (".tiff", 16), (".webp", 8)])
def test_decode_is_exact(ext, bits, have, channels, depth):
    image = pixels(have, np.uint8 if bits == 8 else np.uint16)
    source = image.repeat(3, 2) if (ext, have) == (".webp", 1) else image  # WebP has no grey
    check(decode(encode(image, ext), channels, depth), source, channels, depth)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("have", [1, 3])
def test_decode_jpeg(have, channels):
    image = np.full((16, 16, have), [200, 30, 90][:have], np.uint8)
    out = decode(encode(image, ".jpg"), channels, 8)
    assert out.shape == (16, 16, CHANNELS[channels])
    assert np.abs(out - expected(image, channels, 8)).max() <= 3


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_decode_grey_with_alpha(form, channels):
    both = pixels(2)
    file = io.BytesIO()
    Image.fromarray(both).save(file, form)
    out = decode(file.getvalue(), channels, 8)
    assert out.shape == (6, 10, CHANNELS[channels])
    assert (out[:, :, :3] == both[:, :, :1]).all()
    if (form, channels) == ("PNG", "rgba"):
        assert (out[:, :, 3] == both[:, :, 1]).all()


@pytest.mark.parametrize("channels", CHANNELS)
def test_two_channels_are_grey_and_alpha(channels):
    both = pixels(2)  # what other versions of OpenCV give
    assert (module._to_channels(both, channels)[:, :, :3] == both[:, :, :1]).all()


@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
def test_depths_keep_black_white_and_round_trip(value):
    image = np.full((2, 2, 1), value, np.uint8)
    deep = decode(encode(image, ".png"), "grey", 16)
    assert deep[0, 0, 0] == value * 257
    assert (decode(encode(deep, ".png"), "grey", 8) == image).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
@pytest.mark.parametrize("ext", [".jpg", ".png", ".webp", ".tiff", ".bmp"])
def test_truncated(ext, share):
    data = encode(pixels(3, size=(60, 60)), ext)
    decode(data, "rgb", 8)
    with pytest.raises(BadImage):
        decode(data[: int(len(data) * share)], "rgb", 8)


@pytest.mark.parametrize(
    "data", [b"", b"not an image at all\n", b"\x89PNG\r\n\x1a\n junk IEND", b"\xff\xd8 junk \xff\xd9"]
)
def test_not_an_image(data):
    with pytest.raises(BadImage):
        decode(data, "rgb", 8)


def test_real_pixels_are_refused():
    with pytest.raises(BadImage, match="float32"):
        decode(cv2.imencode(".tiff", np.zeros((4, 4), np.float32))[1].tobytes(), "grey", 8)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return CompetitionFiles("toy")


@pytest.fixture
def add(files):
    def write(name, content):
        path = files.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else encode(content, path.suffix))
        return name, digest_file(path)

    return write


def columns(rows):
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def names(files):
    return sorted(path.name for path in files.images.iterdir() if path.suffix != ".lock")


def test_the_name_does_not_matter(add, files):
    image = np.full((8, 8, 3), [200, 30, 90], np.uint8)
    path, known = add("a.png", encode(image, ".jpg"))
    assert np.abs(load(files.data / path, known, RGB8, (8, 8)).astype(int) - image).max() <= 3


@pytest.mark.parametrize("have, channels, depth", [(3, "rgb", 8), (1, "grey", 8), (1, "grey", 16), (4, "rgba", 16)])
def test_shrinking_is_the_mean_of_areas(add, files, have, channels, depth):
    image = pixels(have, np.uint8 if depth == 8 else np.uint16)
    path, known = add("a.png", image)
    out = load(files.data / path, known, Images(channels=channels, depth=depth), (2, 5))
    assert out.shape == (2, 5, have)
    assert out.dtype == image.dtype
    assert np.abs(out - image.reshape(2, 3, 5, 2, have).mean((1, 3))).max() <= 0.5


def test_enlarging_interpolates(add, files):
    ramp = np.repeat(np.arange(0, 200, 50, dtype=np.uint8)[None], 2, 0)[:, :, None]
    path, known = add("a.png", ramp)
    out = load(files.data / path, known, Images(channels="grey"), (4, 8))
    assert out.shape == (4, 8, 1)
    assert np.abs(out[0, :, 0] - [0, 12.5, 37.5, 62.5, 87.5, 112.5, 137.5, 150]).max() <= 0.5


def test_digest_of_bytes_is_that_of_the_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert digest_bytes(b"abc") == digest_file(tmp_path / "a")


def test_cached_once(files, add, monkeypatch):
    shown = [pixels(3, seed=seed) for seed in range(5)]
    rows = columns([add(f"{i}.png", image) for i, image in enumerate(shown)])
    stack, bad = cached(files, *rows, RGB8, (6, 10))
    assert bad == {}
    assert isinstance(stack, np.memmap)
    assert (stack == np.stack(shown)).all()
    monkeypatch.setattr(module, "load", None)
    again, _ = cached(files, *rows, RGB8, (6, 10))
    assert (again == stack).all()
    assert len(names(files)) == 2  # the array and what is wrong with it


def test_key_is_content_and_decoding(files, add):
    rows = columns([add("0.png", pixels(3)), add("1.png", pixels(3, seed=1))])
    first, _ = cached(files, *rows, RGB8, (6, 10))
    changed = columns([add("0.png", pixels(3, seed=2)), (rows[0][1], rows[1][1])])
    second, _ = cached(files, *changed, RGB8, (6, 10))
    assert (second[0] == pixels(3, seed=2)).all()
    assert (second[1] == first[1]).all()
    for count, (images, size) in enumerate(
        [(Images(channels="grey"), (6, 10)), (Images(depth=16), (6, 10)), (RGB8, (10, 6)), (RGB8, (3, 5))], 3
    ):
        cached(files, *changed, images, size)
        assert len(list(files.images.glob("*.npy"))) == count
    reverse, _ = cached(files, changed[0][::-1], changed[1][::-1], RGB8, (6, 10))
    assert (reverse == second[::-1]).all()


def test_bad_images_are_black_and_named(files, add):
    good, broken = add("good.png", pixels(3)), add("broken.jpg", encode(pixels(3), ".jpg")[:-40])
    rows = columns([broken, good, add("text.png", b"hello")])
    for _ in range(2):
        stack, bad = cached(files, *rows, RGB8, (6, 10))
        assert list(bad) == [0, 2]
        assert "broken.jpg" in bad[0]
        assert "truncated JPEG" in bad[0]
        assert not stack[[0, 2]].any()
        assert (stack[1] == pixels(3)).all()


def test_changed_file_is_refused(files, add):
    rows = columns([add("0.png", pixels(3)), add("1.png", pixels(3, seed=1))])
    add("1.png", pixels(3, seed=2))
    with pytest.raises(UserError, match=r"1\.png has changed .* run the same make again"):
        cached(files, *rows, RGB8, (6, 10))
    (files.data / "1.png").unlink()
    with pytest.raises(UserError, match=r"1\.png cannot be opened: No such file"):
        cached(files, *rows, RGB8, (6, 10))
    assert names(files) == []


def test_mended_image_is_not_bad_for_ever(files, add):
    rows = columns([add("0.png", pixels(3)), add("1.png", b"hello")])
    assert list(cached(files, *rows, RGB8, (6, 10))[1]) == [1]
    add("1.png", pixels(3, seed=2))
    with pytest.raises(UserError, match=r"1\.png has changed"):
        cached(files, *rows, RGB8, (6, 10))


def fill_disk(descriptor, offset, length):
    assert length > 6 * 10 * 3
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_leaves_nothing(files, add, monkeypatch):
    rows = columns([add("0.png", pixels(3))])
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", fill_disk)
        with pytest.raises(UserError, match="disk full"):
            cached(files, *rows, RGB8, (6, 10))
    assert names(files) == []
    assert (cached(files, *rows, RGB8, (6, 10))[0][0] == pixels(3)).all()


def test_space_is_asked_for_first(files, add, monkeypatch):
    rows = columns([add("0.png", pixels(3))])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 6 * 10 * 3 - 1))
    with pytest.raises(UserError, match="decoding 1 images needs"):
        cached(files, *rows, RGB8, (6, 10))


def sparse(path, size, used):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text("{}")
    with open(path, "wb") as handle:
        handle.truncate(size)
    os.utime(path, (used, used))


def test_budget_evicts_what_was_used_longest_ago(files, add, monkeypatch):
    monkeypatch.setenv("PODIUM_CACHE_GB", "1")
    one, two, three = (columns([add(f"{i}.png", pixels(3, seed=i))]) for i in range(3))
    first, _ = cached(files, *one, RGB8, (6, 10))
    (mine,) = files.images.glob("*.npy")
    sparse(files.images / "old.npy", 6 * 10**8, 1000)
    sparse(files.images / "new.npy", 3 * 10**8, 2000)
    os.utime(mine, (1, 1))
    cached(files, *one, RGB8, (6, 10))  # used just now, so the last to go
    cached(files, *two, RGB8, (6, 10))
    assert {"old.npy", "new.npy", mine.name} <= set(names(files))
    sparse(files.images / "newer.npy", 10**8, 3000)
    cached(files, *three, RGB8, (6, 10))
    assert {"new.npy", "newer.npy", "new.json", mine.name} <= set(names(files))
    assert not {"old.npy", "old.json"} & set(names(files))
    mine.unlink()
    assert (first[0] == pixels(3)).all()  # an open map outlives its file


@pytest.mark.parametrize("budget, size", [("0", (6, 10)), ("1", (20_000, 20_000))])
def test_larger_than_the_budget_is_refused(files, add, monkeypatch, budget, size):
    monkeypatch.setenv("PODIUM_CACHE_GB", budget)
    sparse(files.images / "other.npy", 10, 1)
    with pytest.raises(UserError, match="PODIUM_CACHE_GB"):
        cached(files, *columns([add("0.png", pixels(3))]), RGB8, size)
    assert "other.npy" in names(files)


def build_slowly(rows, results):
    real = module.load

    def slow(path, *others):
        time.sleep(0.1)
        with open("loads", "a") as handle:
            handle.write(path.name + "\n")
        return real(path, *others)

    module.load = slow
    stack, bad = cached(CompetitionFiles("toy"), *rows, RGB8, (6, 10))
    results.put((stack.tobytes(), bad))


def test_two_processes_build_one_cache(files, add):
    shown = [pixels(3, seed=seed) for seed in range(4)]
    rows = columns([add(f"{i}.png", image) for i, image in enumerate(shown)])
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    builders = [context.Process(target=build_slowly, args=(rows, results)) for _ in range(2)]
    for builder in builders:
        builder.start()
    assert [results.get(timeout=30) for _ in builders] == [(np.stack(shown).tobytes(), {})] * 2
    for builder in builders:
        builder.join()
    assert len(Path("loads").read_text().splitlines()) == 4
    (built,) = files.images.glob("*.npy")
    assert (read_npy(built) == np.stack(shown)).all()
    assert len(names(files)) == 2
