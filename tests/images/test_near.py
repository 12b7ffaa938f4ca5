"""What rows of two competitions share, by small pictures of their images."""

import cv2
import numpy as np
from house import make_competition, prepare

from pipeline.images.near import near_between, thumbnails
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.keys import read_table_facts
from pipeline.store.table import read_table


def test_a_thumbnail_is_grey_and_blank_where_nothing_can_be_read(tmp_path):
    picture = np.full((40, 30, 3), (10, 20, 200), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    (tmp_path / "b.png").write_text("no picture")
    red, none = thumbnails(tmp_path, np.array(["a.png", "b.png"]), None)
    assert np.allclose(red, cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[0, 0], atol=1)  # a decoder rounds its own way
    assert not none.any()


def test_rows_of_two_competitions_share_a_number_where_asked_for(house):
    extra = "near = 4\n"
    for name, more in (("toy", extra), ("other", "")):
        make_competition(house, "multiclass", name, extra=more)
        for n, path in enumerate(
            sorted((house / "data" / name / "train").iterdir())
        ):  # far from each other, or the same
            seed = n if name == "toy" or n == 7 else 1000 + n
            noise = np.random.default_rng(seed).integers(0, 256, (12, 12)).astype(np.uint8)
            cv2.imwrite(str(path), noise ^ (name == "other"))
        prepare(name)
    here, there = (read_table(c, read_table_facts(c)) for c in map(CompetitionFiles, ("toy", "other")))
    mine, theirs = near_between("toy", here, "other", there)
    assert here.ids[np.isin(mine, theirs[theirs >= 0]) & (mine >= 0)].tolist() == ["i007"]
    assert there.ids[np.isin(theirs, mine[mine >= 0]) & (theirs >= 0)].tolist() == ["i007"]
    assert all((rows == -1).all() for rows in near_between("other", there, "toy", here))
