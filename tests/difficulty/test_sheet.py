import cv2
import numpy as np
import pytest

from pipeline.difficulty.sheet import CHARACTERS, COLUMNS, LINE, MARGIN, THUMB, outlined, short, thumbnail, write_sheet


def test_a_sheet_shows_every_image_and_says_something_under_it(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 200, (20, 20, 3), np.uint8) for _ in range(COLUMNS + 2)]
    write_sheet(tmp_path / "sheet.png", images, [["ant", "bee?"]] * len(images))
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    tall = THUMB + 2 * LINE + MARGIN
    assert sheet.shape == (2 * tall, COLUMNS * (THUMB + MARGIN), 3)
    for j, image in enumerate(images):
        top, left = j // COLUMNS * tall, j % COLUMNS * (THUMB + MARGIN)
        np.testing.assert_array_equal(sheet[top : top + THUMB, left : left + THUMB], thumbnail(image))
        assert (sheet[top + THUMB : top + tall, left : left + THUMB] < 100).any(), "words"
    assert (sheet[tall + THUMB :, 2 * (THUMB + MARGIN) :] == 255).all(), "and nothing where there is no image"


def test_an_empty_sheet_says_so(tmp_path):
    write_sheet(tmp_path / "sheet.png", [], [])
    assert (cv2.imread(str(tmp_path / "sheet.png")) < 100).any()


def test_words_beyond_ascii_are_drawn(tmp_path):
    write_sheet(tmp_path / "sheet.png", [np.zeros((9, 9, 1), np.uint8)], [["größer als gedacht und lang"]])
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[1] >= THUMB


def test_long_names_are_told_apart_by_both_ends():
    names = [f"{script}/character{n:02d}" for script in ("Balinese", "Braille_of_1829") for n in range(20)]
    assert {len(short(name)) for name in names} == {CHARACTERS}
    assert len({short(name) for name in names}) == len(names)
    assert short("a name of 18 chars") == "a name of 18 chars"


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_thumbnails_of_every_kind_of_image(channels, depth):
    image = np.zeros((10, 40, channels), depth)
    image[:, :, 0] = np.iinfo(depth).max
    small = thumbnail(image)
    assert small.shape == (THUMB, THUMB, 3)
    colour = [255, 255, 255] if channels == 1 else [0, 0, 255]
    assert (small[: THUMB // 4] == colour).all(), "red is the third of OpenCV's channels"
    assert (small[THUMB // 4 :] == 255).all(), "the shape of the image stays"


def test_large_images_shrink():
    assert thumbnail(np.full((500, 300, 1), 7, np.uint8))[:, : int(THUMB * 0.6)].max() == 7


def test_outlines_of_a_given_and_of_a_predicted_mask():
    image, given, said = np.full((28, 56, 1), 10, np.uint8), np.zeros((28, 56), bool), np.zeros((28, 56), bool)
    given[4:12, 4:20] = said[16:24, 30:50] = True
    both = given | said
    shown = outlined(image, given, said)
    assert shown.shape == (THUMB // 2, THUMB, 3)
    colours = {tuple(c) for c in shown.reshape(-1, 3).tolist()}
    assert {(0, 255, 0), (255, 0, 0)} <= colours
    assert (255, 255, 0) not in colours
    green, red = (shown == [0, 255, 0]).all(2), (shown == [255, 0, 0]).all(2)
    assert green[:26, :42].sum() == green.sum() > 0
    assert red[30:, 58:].sum() == red.sum() > 0
    inside = shown[14:18, 20:30]
    assert (inside == inside[0, 0]).all(), "a line, not a patch"
    assert {tuple(c) for c in outlined(image, both, both).reshape(-1, 3).tolist()} >= {(255, 255, 0)}
    faint = np.zeros((28, 28, 3), np.uint16)
    faint[:14] = 8000
    assert outlined(faint)[0, 0, 0] > 200, "brightened"
    assert outlined(faint.astype(np.float32) / 65535)[0, 0, 0] == 255
