"""Masks as Kaggle wants them: every form filled, read back, refused where it is wrong, scored as by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from mask_house import rle
from salt import Truth, packed, problem_of

from pipeline.competitions.mask_submission import mask_leaderboard, read_mask_form, read_masks_back, rle_cells
from pipeline.masks.decide import Decision, decide
from pipeline.masks.metrics import MASK_METRICS
from pipeline.masks.truth import components
from pipeline.scoring.mask_variants import measure
from pipeline.scoring.metrics import METRICS
from pipeline.store.config import Competition
from pipeline.store.errors import UserError
from pipeline.tasks import TASKS

RNG = np.random.default_rng(8)
ASKED, IDS = ["b", "a", "c", "d"], np.array(["a", "x", "c", "b", "d"])
SIZES = {i: np.array(size) for i, size in zip(IDS.tolist(), [(5, 7), (4, 4), (6, 3), (8, 8), (2, 9)], strict=True)}
TWO = ["fish", "gravel"]


def masks_of(classes, empty="c"):
    return {i: RNG.random((classes, *size)) < (0 if i == empty else 0.5) for i, size in SIZES.items()}


# Form: contract, sample, what the cells of some masks are (rows in the sample's order).
def wide(masks, names, order="column", blank=""):
    return [[i, *(rle(m, order) or blank for m in masks[i])] for i in ASKED], ["id", *names]


def long(masks, names):
    return [[i, rle(masks[i][c]), name] for name in names for i in ASKED for c in [TWO.index(name)]], [
        "id",
        "rle",
        "ClassId",
    ]


def joined(masks, names):
    return [[f"{i}_{name}", rle(masks[i][c])] for i in ASKED for c, name in enumerate(names)], ["Image_Label", "rle"]


FORMS = {
    "one": (1, {"target": "rle"}, lambda m: wide(m, ["rle"])),
    "of another name": (1, {"target": "rle_mask"}, lambda m: wide(m, ["EncodedPixels"])),
    "by rows": (1, {"target": "rle", "masks": {"order": "row"}}, lambda m: wide(m, ["rle"], "row")),
    "minus one": (1, {"target": "rle"}, lambda m: wide(m, ["rle"], blank="-1")),
    "two columns": (2, {"target": TWO}, lambda m: wide(m, TWO)),
    "long": (2, {"target": "rle", "masks": {"class": "ClassId"}, "classes": TWO}, lambda m: long(m, TWO)),
    "one class of two": (2, {"target": "rle", "masks": {"class": "ClassId"}, "classes": TWO}, lambda m: long(m, ["gravel"])),
    "joined": (2, {"target": "rle", "masks": {"separator": "_"}, "classes": TWO}, lambda m: joined(m, TWO)),
    "long train, joined sample": (2, {"target": "rle", "masks": {"class": "ClassId", "separator": "_"}, "classes": TWO},
                                  lambda m: joined(m, TWO)),
}  # fmt: skip


def form_of(tmp_path, settings, rows, header, cells=None):
    config = Competition.model_validate({"task": "segmentation", "metric": "dice", "id": "id", **settings})
    sample = pd.DataFrame(rows, columns=header)
    column = next(c for c in header[::-1] if c != "ClassId")
    sample = sample.assign(**{column: cells}) if cells is not None else sample
    sample.to_csv(tmp_path / "sample_submission.csv", index=False)
    classes = config.classes or ([config.target] if isinstance(config.target, str) else config.target)
    return read_mask_form(config, list(classes), tmp_path)


@pytest.mark.parametrize("case", FORMS)
def test_every_form_is_filled_and_read_back(case, tmp_path):
    classes, settings, lay = FORMS[case]
    masks = masks_of(classes)
    rows, header = lay(masks)
    form = form_of(tmp_path, settings, rows, header, "-1" if case == "minus one" else "1 1")
    assert form.asked == ASKED
    filled = rle_cells(form, IDS, (masks[i] for i in IDS.tolist()))
    assert filled.columns.tolist() == header
    assert filled.to_numpy(str).tolist() == rows
    path = tmp_path / "made.csv"
    filled.to_csv(path, index=False, lineterminator="\n")
    cells = read_masks_back(form, path, path, filled)
    want = [[rle(m, form.config.masks.order) for m in masks[i]] for i in ASKED]
    if case == "one class of two":
        want = [["", second] for _, second in want]
    assert cells == want
    solution = tmp_path / "solution.csv"
    pd.DataFrame(rows, columns=header).assign(Usage="Private").to_csv(solution, index=False)
    assert mask_leaderboard(form, TASKS["segmentation"], METRICS["dice"], solution, cells, SIZES) == {"private": 1.0}


def test_objects_have_a_row_each(tmp_path):
    numbers = {i: RNG.integers(0, 3, size) * (i != "c") for i, size in SIZES.items()}
    settings = {"target": "rle", "masks": {"objects": True}}
    form = form_of(tmp_path, settings, [[i, "1 1"] for i in ASKED], ["id", "rle"])
    filled = rle_cells(form, IDS, (numbers[i] for i in IDS.tolist()))
    want = [[i, rle(numbers[i] == k)] for i in ASKED for k in ([1, 2] if i != "c" else [9])]
    assert filled.to_numpy(str).tolist() == want
    path = tmp_path / "made.csv"
    filled.to_csv(path, index=False)
    cells = read_masks_back(form, path, path, filled)
    assert [len(c) for c in cells] == [2, 2, 0, 2]
    solution = tmp_path / "solution.csv"
    filled.assign(Usage=["Public"] * 2 + ["Private"] * (len(filled) - 2)).to_csv(solution, index=False)
    scores = mask_leaderboard(form, TASKS["segmentation"], METRICS["dsb_precision"], solution, cells, SIZES)
    assert scores == {"public": 1.0, "private": 1.0}
    # A mask without numbers is divided into its components.
    plain = {i: (n > 0)[None] for i, n in numbers.items()}
    filled = rle_cells(form, IDS, (plain[i] for i in IDS.tolist()))
    assert len(filled) == sum(max(components(plain[i][0]).max(), 1) for i in ASKED)


def test_the_score_is_that_of_decoded_masks(tmp_path):
    truth, guess = masks_of(2), masks_of(2, empty="d")
    rows, header = wide(truth, TWO)
    form = form_of(tmp_path, {"target": TWO}, rows, header)
    solution, usage = tmp_path / "solution.csv", ["Public", "Private", "Private", "Ignored"]
    pd.DataFrame(rows, columns=header).assign(Usage=usage).to_csv(solution, index=False)
    cells = [[rle(m) for m in guess[i]] for i in ASKED]

    def dice(t, g):
        return 1.0 if not t.any() and not g.any() else 2 * (t & g).sum() / (t.sum() + g.sum())

    each = [np.mean([dice(t, g) for t, g in zip(truth[i], guess[i], strict=True)]) for i in ASKED]
    scores = mask_leaderboard(form, TASKS["segmentation"], METRICS["dice"], solution, cells, SIZES)
    assert scores == pytest.approx({"public": each[0], "private": np.mean(each[1:3])})
    both = sum((truth[i] & guess[i]).sum((1, 2)) for i in ASKED[1:3])
    either = sum((truth[i] | guess[i]).sum((1, 2)) for i in ASKED[1:3])
    scores = mask_leaderboard(form, TASKS["segmentation"], METRICS["mean_iou"], solution, cells, SIZES)
    assert scores["private"] == pytest.approx((both / either).mean())


def test_masks_are_taken_one_at_a_time(tmp_path):
    alive = []

    def stream():
        for size in SIZES.values():
            mask = np.zeros((1, *size), bool)
            alive.append(__import__("weakref").ref(mask))
            yield mask
            del mask
            assert sum(ref() is not None for ref in alive) <= 1

    form = form_of(tmp_path, {"target": "rle"}, [[i, "1 1"] for i in ASKED], ["id", "rle"])
    assert (rle_cells(form, IDS, stream())["rle"] == "").all()


def test_ids_without_a_mask(tmp_path):
    form = form_of(tmp_path, {"target": "rle"}, [[i, "1 1"] for i in [*ASKED, "z"]], ["id", "rle"])
    with pytest.raises(UserError, match=r"id 'z' has no prediction \(1 in all\)"):
        rle_cells(form, IDS, (np.zeros((1, 2, 2), bool) for _ in IDS))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda f: f.rename(columns={"rle": "mask"}), "header"),
        (lambda f: f[::-1], "not what was written"),
        (lambda f: f[1:], "not what was written"),
        (lambda f: f.assign(rle=["1 1", *f["rle"][1:]]), "not what was written"),
    ],
)
def test_a_file_that_is_not_what_was_written(change, said, tmp_path):
    masks = masks_of(1)
    form = form_of(tmp_path, {"target": "rle"}, [[i, "1 1"] for i in ASKED], ["id", "rle"])
    filled = rle_cells(form, IDS, (masks[i] for i in IDS.tolist()))
    change(filled).to_csv(tmp_path / "made.csv", index=False)
    with pytest.raises(UserError, match=said):
        read_masks_back(form, tmp_path / "made.csv", tmp_path / "toy.csv", filled)


@pytest.mark.parametrize(
    "settings, rows, header, said",
    [
        ({"target": TWO}, [["a", ""]], ["id", "fish"], "have no place for the RLE of 'fish', 'gravel'"),
        ({"target": "rle", "masks": {"class": "ClassId"}, "classes": TWO}, [["a", ""]], ["id", "rle"], "no place for the RLE"),
        ({"target": "rle", "masks": {"class": "ClassId"}, "classes": TWO}, [["a", "", "cow"]], ["id", "rle", "ClassId"],
         "class 'cow' is none of"),
        ({"target": "rle"}, [["a", ""], ["a", ""]], ["id", "rle"], "id 'a' stands there 2 times"),
        ({"target": "rle", "masks": {"separator": "_"}, "classes": TWO}, [["a", ""]], ["id", "rle"], "joined by '_'"),
    ],
)  # fmt: skip
def test_samples_that_do_not_fit(settings, rows, header, said, tmp_path):
    with pytest.raises(UserError, match=said):
        form_of(tmp_path, settings, rows, header)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda f: f[1:], "do not have the same ids, for example 'b'"),
        (lambda f: f.assign(Usage="Secret"), "Usage 'secret' is none of"),
        (lambda f: f.assign(rle="1 99"), "has RLE that does not fit"),
    ],
)
def test_solutions_that_do_not_fit(change, said, tmp_path):
    form = form_of(tmp_path, {"target": "rle"}, [[i, "1 1"] for i in ASKED], ["id", "rle"])
    frame = pd.DataFrame({"id": ASKED, "rle": "1 1", "Usage": "Private"})
    change(frame).to_csv(tmp_path / "solution.csv", index=False)
    with pytest.raises(UserError, match=said):
        mask_leaderboard(form, TASKS["segmentation"], METRICS["dice"], tmp_path / "solution.csv", [["1 1"]] * 4, SIZES)


@pytest.mark.parametrize("form", ["wide", "long"])
def test_a_sample_that_leaves_the_background_out(form, tmp_path):
    """Masks in files have a class for every pixel; the sample asks for some, and only those are scored."""
    masks = {i: RNG.integers(0, 3, size) == np.arange(3)[:, None, None] for i, size in SIZES.items()}
    names = ["ground", *TWO]
    settings = {"classes": names, "masks": {"pattern": "m/{id}.png", "values": [0, 1, 2], "exclusive": True}}
    if form == "wide":
        rows, header = [[i, rle(masks[i][2]), rle(masks[i][1])] for i in ASKED], ["id", "gravel", "fish"]
    else:
        settings["masks"]["class"] = "ClassId"
        rows = [[i, name, rle(masks[i][c])] for i in ASKED for c, name in enumerate(names) if c]
        header = ["id", "ClassId", "rle"]
    config = Competition.model_validate({"task": "segmentation", "metric": "dice", "id": "id", **settings})
    sample = pd.DataFrame(rows, columns=header)
    sample.assign(**dict.fromkeys(["gravel", "fish"] if form == "wide" else ["rle"], "1 1")).to_csv(
        tmp_path / "sample_submission.csv", index=False
    )
    made = read_mask_form(config, names, tmp_path)
    filled = rle_cells(made, IDS, (masks[i] for i in IDS.tolist()))
    assert filled.to_numpy(str).tolist() == rows
    filled.to_csv(tmp_path / "made.csv", index=False)
    cells = read_masks_back(made, tmp_path / "made.csv", tmp_path / "made.csv", filled)
    assert cells == [["", rle(masks[i][1]), rle(masks[i][2])] for i in ASKED]
    solution = tmp_path / "solution.csv"
    sample.assign(Usage="Private").to_csv(solution, index=False)
    task = TASKS["segmentation"]
    assert mask_leaderboard(made, task, METRICS["dice"], solution, cells, SIZES) == {"private": 1.0}
    nothing = [["", "", ""] for _ in cells]
    assert mask_leaderboard(made, task, METRICS["dice"], solution, nothing, SIZES)["private"] < 0.5


@pytest.mark.parametrize("metric", sorted(set(MASK_METRICS) - {"dsb_precision"}))
def test_cross_validation_scores_what_the_leaderboard_scores(metric, tmp_path):
    """Out-of-fold maps, decided, measured for CV and sent in as cells: one number, of the classes that are asked for."""
    rng, names = np.random.default_rng(1), ["ground", *TWO]
    settings = {"classes": names, "masks": {"pattern": "m/{id}.png", "values": [0, 1, 2], "exclusive": True}}
    form = form_of(tmp_path, settings, [[i, "", ""] for i in ASKED], ["id", *TWO])
    sizes = [SIZES[i] for i in ASKED]
    truth = Truth([rng.integers(0, 3, size) == np.arange(3)[:, None, None] for size in sizes], "exclusive")
    maps = packed([0.5 * mask + rng.random(mask.shape) for mask in truth.masks], classes=3)
    problem = replace(problem_of(truth, metric, folds=2), scored_classes=form.some)
    setting = (Decision(), Decision(min_area=0.05), Decision())
    stats = measure(maps, truth, np.arange(4), [setting], problem.mask_metric)[:, 0]
    masks = [decide(maps[i], maps.present(i), setting, tuple(sizes[i]), True) for i in range(4)]
    told = [[i, rle(mask[1]), rle(mask[2])] for i, mask in zip(ASKED, truth.masks, strict=True)]
    pd.DataFrame(told, columns=["id", *TWO]).assign(Usage="Private").to_csv(tmp_path / "solution.csv", index=False)
    sent = tmp_path / "sent.csv"
    filled = rle_cells(form, np.array(ASKED), masks)
    filled.to_csv(sent, index=False)
    cells = read_masks_back(form, sent, sent, filled)
    board = mask_leaderboard(form, problem.task, problem.metric, tmp_path / "solution.csv", cells, SIZES)
    assert board["private"] == pytest.approx(problem.judge(stats))
    whole = replace(problem, scored_classes=None)
    rest = measure(maps, truth, np.arange(4), [setting], whole.mask_metric)[:, 0]
    assert board["private"] != pytest.approx(whole.judge(rest)), "the ground is easier, or harder"
