"""The report on a run with masks: every number stands at its own image, and wrong masks are at the top of the list."""

import numpy as np
import pytest
from house import prepare
from mask_house import make_masks
from sklearn.metrics import roc_auc_score

from pipeline.difficulty.known import Case
from pipeline.difficulty.mask_report import MaskReport
from pipeline.difficulty.sheet import THUMB
from pipeline.masks.decide import Decision
from pipeline.masks.truth import read_truth
from pipeline.scoring.metrics import METRICS
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import CompetitionFiles, RunFiles
from pipeline.store.config import load_competition
from pipeline.store.files import write_npy
from pipeline.store.keys import read_table_facts
from pipeline.store.runs import load_run
from pipeline.store.table import read_table
from pipeline.tasks import TASKS

TRAIN, TEST = 150, 12


@pytest.fixture
def posed(house):
    """A run that is right where it is sure, and masks of which some were moved elsewhere."""
    make_masks(house, n_train=TRAIN, n_test=TEST)
    prepare()
    files, run = CompetitionFiles("toy"), RunFiles("toy/a")
    table = read_table(files, read_table_facts(files))
    competition = load_competition("toy")
    truth, rng = read_truth(files, table, competition), np.random.default_rng(0)
    doubt, flat = rng.random(TRAIN), []
    for i, row in enumerate(table.scored):
        noise = rng.normal(0, 0.2 + 3 * doubt[i], truth[row].shape)
        p = 1 / (1 + np.exp(-(np.where(truth[row], 4, -4) * (1.1 - doubt[i]) + noise)))
        flat.append(np.r_[p.ravel(), 1].astype(np.float16))
    masked = [i for i, row in enumerate(table.scored) if 0.05 < table.y[row].sum() < 0.3 and doubt[i] < 0.4]
    false, stored = np.array(masked[:6]), np.array(truth.flat)
    for i in false:
        row = table.scored[i]
        stretch = slice(truth.starts[row], truth.starts[row + 1])
        stored[stretch] = np.roll(stored[stretch].reshape(truth[row].shape[1:]), 8, (0, 1)).ravel()
    write_npy(files.masks, stored)
    write_npy(run.oof, np.concatenate(flat))
    pixels = table.sizes[table.test].prod(1)
    for k in range(3):
        write_npy(run.fold(k).test, rng.random(pixels.sum() + TEST).astype(np.float16))
    write_npy(run.test, rng.random(pixels.sum() + TEST).astype(np.float16))
    plain = [Decision().as_dict()]
    shelf = {
        "maps": {"extra": 0, "scale": 1.0},
        "decision": {"masks": plain, "by_fold": {str(k): plain for k in range(3)}},
        "folds": [0, 1, 2],
        "config": load_run("toy/a").model_dump(),
    }
    problem = Problem.of(table, TASKS["segmentation"], METRICS["iou"])
    case = Case(run, competition, table, problem, shelf, {"toy/a": shelf})
    return MaskReport.of(case, 0.05, 0.8), false, flat


def test_every_number_stands_at_its_image(posed):
    report, false, flat = posed
    table, frame = report.case.table, report.difficulty()
    assert frame["id"].tolist() == table.ids[report.case.rows].tolist()
    for i, row in enumerate(table.scored):
        mask, truth = flat[i][:-1] > 0.5, report.scene.truth[row].ravel()
        either = (mask | truth).sum()
        assert frame["score"][i] == pytest.approx((mask & truth).sum() / either if either else 1.0)
    assert frame["score"][TRAIN:].isna().all()
    assert frame["p_error"].between(0, 1).all()
    assert (frame["fold"] == table.folds[report.case.rows]).all()
    assert roc_auc_score(np.isin(np.arange(TRAIN), false), frame["p_label_wrong"][:TRAIN]) > 0.9


def test_the_review_and_the_sheets_begin_with_the_worst(posed):
    report, false, _ = posed
    review = report.review()
    suspects = review[review["tag"] == "suspect"]
    assert len(suspects) == report.metrics["labels"]["suspects"] > 0
    assert suspects["p_label_wrong"].is_monotonic_decreasing
    assert (review["tag"][len(suspects) :] != "suspect").all()
    assert suspects["id"][:5].isin(report.case.table.ids[report.case.table.scored][false]).mean() >= 0.6
    sheets = report.sheets(3)
    images, words = sheets["suspects"]
    assert [line[0] for line in words] == suspects["id"].tolist()[:3]
    assert all(max(image.shape[:2]) == THUMB for image in images)
    assert all((image == [0, 255, 0]).all(2).any() and (image == [255, 0, 0]).all(2).any() for image in images)
    hard, words = sheets["hard_test"]
    assert not any((image == [0, 255, 0]).all(2).any() for image in hard), "no mask is known of test images"
    assert all(line[1].startswith("p ") for line in words)


def test_shares_of_tags_and_what_they_are_worth(posed):
    report, *_ = posed
    told, tags = report.metrics, report.tags.tags
    assert told["shares"]["train"]["hard"] == pytest.approx((tags[:TRAIN] == "hard").mean())
    assert sum(told["shares"]["test"].values()) == pytest.approx(1)
    assert told["shares"]["test"]["suspect"] == 0
    assert told["score"] > 0.6
