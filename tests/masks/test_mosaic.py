import numpy as np
import pytest
from fields import cut_fields, score, touching
from scipy import ndimage

from pipeline.masks import mosaic
from pipeline.masks.mosaic import Borders, Links, assemble, links, place


@pytest.mark.parametrize("channels, light", [(1, 0), (3, 0), (1, 0.2), (3, 0.2)])
def test_tiles_of_shuffled_fields_find_each_other(channels, light):
    rng = np.random.default_rng(0)
    tiles, field, at = cut_fields(rng, 20, 32, channels=channels)
    tiles = (tiles * rng.uniform(0.8 - light, 0.8, (len(tiles), 1, 1, 1))).astype(np.uint8)
    precision, recall = score(links(Borders.of(tiles)), touching(field, at))
    assert precision == 1
    assert recall > 0.95
    whole, found = place(links(Borders.of(tiles)), len(tiles))
    assert np.array_equal(whole, assemble(Borders.of(tiles)))
    for m in np.unique(whole):
        mine = whole == m
        assert len(np.unique(field[mine])) == 1
        assert (found[mine].min(0) == 0).all()
        # The places are those of the field but for where they start.
        assert len(np.unique(found[mine] - at[mine], axis=0)) == 1
    shares = [(whole == m).sum() / (field == field[whole == m][0]).sum() for m in np.unique(whole)]
    assert np.mean(shares) > 0.95


def test_noisy_tiles():
    tiles, field, at = cut_fields(np.random.default_rng(0), 20, 32, noise=4.0)
    precision, recall = score(links(Borders.of(tiles)), touching(field, at))
    assert precision > 0.98
    assert recall > 0.7


def test_a_tile_has_one_neighbour_a_side():
    found = links(Borders.of(cut_fields(np.random.default_rng(0), 30, 32, noise=6.0)[0]), ratio=0.0)
    assert len(found.pairs) > 20
    for down in (0, 1):
        mine = found.pairs[found.steps[:, 0] == down]
        assert all(len(np.unique(side)) == len(side) for side in mine.T)


def test_tiles_of_nothing_stand_alone():
    rng = np.random.default_rng(0)
    apart = cut_fields(rng, 40, 24, (1, 1), (1, 1))[0]
    assert assemble(Borders.of(apart)).tolist() == list(range(40))
    for tiles in (np.zeros((9, 12, 12), np.uint8), np.full((2, 12, 12, 3), 7, np.uint8), apart[:1], apart[:0]):
        assert assemble(Borders.of(tiles)).tolist() == list(range(len(tiles)))
    assert assemble(Borders.of(apart[:2])).tolist() == [0, 1]


def test_black_tiles_are_not_joined():
    tiles = cut_fields(np.random.default_rng(1), 12, 24)[0]
    tiles[:2] = 0
    found = assemble(Borders.of(tiles))
    assert found[:2].tolist() == [0, 1]
    assert (found[2:] > 1).all()


def test_copies_of_a_tile_are_not_told_apart():
    tiles, _, _ = cut_fields(np.random.default_rng(2), 1, 24, (3, 3), (3, 3))
    assert len(np.unique(assemble(Borders.of(tiles)))) == 1
    twice = np.concatenate([tiles, tiles])
    assert assemble(Borders.of(twice)).tolist() == list(range(18))


def test_a_pair_that_is_alike_by_chance_in_other_light_is_not_joined():
    """Two dark tiles are nearer to each other than to all that are bright."""
    tiles = cut_fields(np.random.default_rng(4), 12, 24, (1, 1), (1, 1))[0]
    tiles[:2] //= 32
    assert assemble(Borders.of(tiles)).tolist() == list(range(12))


def test_what_fits_by_chance_is_counted_and_left_out():
    """On a dark ground with few bright discs some borders always fit: none of these tiles touch."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:32, :32]
    tiles = rng.integers(0, 2, (500, 32, 32))
    for tile in tiles:
        for cy, cx, r in rng.uniform([0, 0, 4], [32, 32, 9], (3, 3)):
            tile[np.hypot(y - cy, x - cx) < r] = 120
    tiles = ndimage.gaussian_filter(tiles.astype(float), (0, 1, 1)).astype(np.uint8)
    sides = Borders.of(tiles)
    found = [mosaic._touching(*way, 0.25) for way in ((sides.left, sides.right), (sides.top, sides.bottom))]
    by_chance = sum(np.count_nonzero(pairs[:, 1] < 500) for pairs, _ in found)
    assert by_chance > 20
    assert len(links(Borders.of(tiles)).pairs) < by_chance / 4


@pytest.mark.parametrize(
    "clear, chance, least",
    [
        ([0.3, 0.5, 0.9], [], 0.3),
        ([0.3, 0.5, 0.9], [0.9], np.inf),
        ([0.3, 0.5, 0.9], [0.4], 0.5),
        ([], [0.4], np.inf),
        ([0.3] * 19 + [0.5] * 20, [0.4, 0.35], 0.5),
        ([0.3] * 20 + [0.5] * 20, [0.4, 0.3], 0.3),
    ],
)
def test_so_clear_that_one_in_twenty_is_false(clear, chance, least):
    assert mosaic._least(np.array(clear), np.array(chance)) == least


def made(*rows):
    pairs, steps, clear = zip(*rows, strict=True)
    return Links(np.array(pairs), np.array(steps), np.array(clear))


def test_the_clearest_links_come_first_and_a_place_is_taken_once():
    right, down = (0, 1), (1, 0)
    found = made(((0, 1), right, 0.9), ((1, 2), down, 0.8), ((0, 3), down, 0.7), ((3, 2), right, 0.6))
    numbers, at = place(found, 5)
    assert numbers.tolist() == [0, 0, 0, 0, 4]
    assert at.tolist() == [[0, 0], [0, 1], [1, 1], [1, 0], [0, 0]]
    # Tile 4 would lie on tile 1.
    numbers, _ = place(made(((0, 1), right, 0.9), ((0, 4), right, 0.5)), 5)
    assert numbers.tolist() == [0, 0, 2, 3, 4]
    numbers, _ = place(made(((0, 1), right, 0.4), ((0, 4), right, 0.5)), 5)
    assert numbers.tolist() == [0, 1, 2, 3, 0]


def test_places_start_at_0_whichever_part_is_moved():
    left, up = (0, 1), (1, 0)
    found = made(((3, 4), left, 0.9), ((4, 5), left, 0.8), ((1, 5), up, 0.7), ((0, 1), left, 0.6))
    numbers, at = place(found, 6)
    assert numbers.tolist() == [0, 0, 2, 0, 0, 0]
    assert at.tolist() == [[0, 1], [0, 2], [0, 0], [1, 0], [1, 1], [1, 2]]
