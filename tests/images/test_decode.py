import io

import cv2
import numpy as np
import pytest
from files import encode, pixels
from PIL import Image

from pipeline.images import decode as module
from pipeline.images.decode import BadImage, Changed, decode, load
from pipeline.store.config import Images
from pipeline.store.errors import UserError
from pipeline.store.files import digest_file
from pipeline.store.table import combined

RGB8 = Images(channels="rgb", depth=8)
CHANNELS = {"grey": 1, "rgb": 3, "rgba": 4}


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
    check(decode(encode(image, ext), Images(channels=channels, depth=depth)), source, channels, depth)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("have", [1, 3])
def test_decode_jpeg(have, channels):
    image = np.full((16, 16, have), [200, 30, 90][:have], np.uint8)
    out = decode(encode(image, ".jpg"), Images(channels=channels))
    assert out.shape == (16, 16, CHANNELS[channels])
    assert np.abs(out - expected(image, channels, 8)).max() <= 3


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_decode_grey_with_alpha(form, channels):
    both = pixels(2)
    file = io.BytesIO()
    Image.fromarray(both).save(file, form)
    out = decode(file.getvalue(), Images(channels=channels))
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
    deep = decode(encode(image, ".png"), Images(channels="grey", depth=16))
    assert deep[0, 0, 0] == value * 257
    assert (decode(encode(deep, ".png"), Images(channels="grey", depth=8)) == image).all()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
@pytest.mark.parametrize("ext", [".jpg", ".png", ".webp", ".tiff", ".bmp"])
def test_truncated(ext, share):
    data = encode(pixels(3, size=(60, 60)), ext)
    decode(data, RGB8)
    with pytest.raises(BadImage):
        decode(data[: int(len(data) * share)], RGB8)


@pytest.mark.parametrize(
    "data", [b"", b"not an image at all\n", b"\x89PNG\r\n\x1a\n junk IEND", b"\xff\xd8 junk \xff\xd9"]
)
def test_not_an_image(data):
    with pytest.raises(BadImage):
        decode(data, RGB8)


def test_floats_are_in_0_to_1():
    def tiff(value):
        return cv2.imencode(".tiff", np.full((4, 4), value, np.float32))[1].tobytes()

    for depth, white in ((8, 255), (16, 65535), (32, 1)):
        assert (decode(tiff(1), Images(channels="grey", depth=depth)) == white).all()
        for value in (-0.1, 1.1, np.nan):
            with pytest.raises(BadImage, match="scale them to 0..1"):
                decode(tiff(value), Images(channels="grey", depth=depth))


def test_the_name_does_not_matter(add, files):
    image = np.full((8, 8, 3), [200, 30, 90], np.uint8)
    path, known = add("a.png", encode(image, ".jpg"))
    assert np.abs(load(files.data, path, known, RGB8, (8, 8)).astype(int) - image).max() <= 3


@pytest.mark.parametrize("have, channels, depth", [(3, "rgb", 8), (1, "grey", 8), (1, "grey", 16), (4, "rgba", 16)])
def test_shrinking_is_the_mean_of_areas(add, files, have, channels, depth):
    image = pixels(have, np.uint8 if depth == 8 else np.uint16)
    path, known = add("a.png", image)
    out = load(files.data, path, known, Images(channels=channels, depth=depth), (2, 5))
    assert out.shape == (2, 5, have)
    assert out.dtype == image.dtype
    assert np.abs(out - image.reshape(2, 3, 5, 2, have).mean((1, 3))).max() <= 0.5


def test_enlarging_interpolates(add, files):
    ramp = np.repeat(np.arange(0, 200, 50, dtype=np.uint8)[None], 2, 0)[:, :, None]
    path, known = add("a.png", ramp)
    out = load(files.data, path, known, Images(channels="grey"), (4, 8))
    assert out.shape == (4, 8, 1)
    assert np.abs(out[0, :, 0] - [0, 12.5, 37.5, 62.5, 87.5, 112.5, 137.5, 150]).max() <= 0.5


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("dtype, depth, full", [(np.uint8, 8, 255), (np.uint16, 16, 65535), (np.float32, 32, 1)])
@pytest.mark.parametrize("channels", [1, 6])
def test_arrays_of_any_channels(channels, dtype, depth, full):
    image = (np.random.default_rng(0).random((6, 10, channels)) * full).astype(dtype)
    images = Images(channels=channels, depth=depth)
    assert (decode(npy(image), images) == image).all()
    assert (decode(npy(image.transpose(2, 0, 1)), images) == image).all()
    with pytest.raises(BadImage, match=f"H x W x {channels} is asked for"):
        decode(npy(np.zeros((7, 10, 5), dtype)), images)


@pytest.mark.parametrize("data", [npy(np.zeros((4, 4), np.uint8))[:100], npy(np.zeros((4, 4), np.uint8))[:-3]])
def test_broken_arrays(data):
    with pytest.raises(BadImage, match="not an npy array"):
        decode(data, Images(channels="grey"))


def test_objects_are_never_unpickled():
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(BadImage, match="not an npy array"):
        decode(file.getvalue(), Images(channels="grey"))


def test_own_decoder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\ndef raw(data):\n    return np.frombuffer(data, np.uint8).reshape(2, 3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    images = Images(channels="grey", decoder="mine:raw")
    assert decode(b"abcdef", images)[:, :, 0].tolist() == [[97, 98, 99], [100, 101, 102]]
    with pytest.raises(BadImage, match="mine:raw raises ValueError: cannot reshape"):
        decode(b"abcde", images)
    with pytest.raises(UserError, match="cannot be imported"):
        decode(b"abcdef", Images(channels="grey", decoder="mine:nothing"))


def test_channels_and_views_are_stacked(files, add):
    shown = {(v, c): pixels(1, seed=10 * v + c) for v in range(2) for c in range(3)}
    added = {key: add(f"a_{key[0]}_{key[1]}.png", image) for key, image in shown.items()}
    known = combined([added[v, c][1] for v in range(2) for c in range(3)])
    images = Images(pattern="{id}_{view}_{channel}.png", channels="grey", channel=["0", "1", "2"], view=["0", "1"])
    out = load(files.data, "a_0_{channel}.png|a_1_{channel}.png", known, images, (6, 10))
    assert (out == np.concatenate([shown[v, c] for v in range(2) for c in range(3)], 2)).all()
    lacking = combined(["", "", "", *(added[1, c][1] for c in range(3))])
    out = load(files.data, "|a_1_{channel}.png", lacking, images, (6, 10))
    assert not out[:, :, :3].any()
    assert (out[:, :, 3:] == np.concatenate([shown[1, c] for c in range(3)], 2)).all()
    with pytest.raises(Changed):  # the same file in another place is another row
        load(files.data, "a_1_{channel}.png|", lacking, images, (6, 10))
    (files.data / "a_1_2.png").write_bytes(b"no image")
    broken = combined(["", "", "", *(digest_file(files.data / f"a_1_{c}.png") for c in range(3))])
    with pytest.raises(BadImage, match=r"a_1_2\.png cannot be read"):
        load(files.data, "|a_1_{channel}.png", broken, images, (6, 10))
