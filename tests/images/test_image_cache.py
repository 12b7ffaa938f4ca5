import errno
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from files import encode, pixels

from pipeline.images import cache as module
from pipeline.images.cache import cached
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import Images
from pipeline.store.errors import UserError
from pipeline.store.files import digest_bytes, digest_file, read_npy

RGB8 = Images(channels="rgb", depth=8)


def columns(rows):
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def names(files):
    return sorted(path.name for path in files.images.iterdir() if path.suffix != ".lock")


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

    def slow(folder, path, *others):
        time.sleep(0.1)
        with open("loads", "a") as handle:
            handle.write(path + "\n")
        return real(folder, path, *others)

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
