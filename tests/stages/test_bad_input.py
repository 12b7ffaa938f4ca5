"""Whatever a user can get wrong: one line, nothing half-written."""

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
from house import ROOT, make_competition, prepare, stage

from pipeline.store.errors import UserError

CONTRACT, RUN = "configs/toy/competition.toml", "configs/toy/a.toml"


def swap(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def edit(path, change):
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(frame).to_csv(path, index=False)


def spoil_image(name, content):
    def spoil(data, house):
        path = data / name
        path.write_bytes(content(path.read_bytes()))

    return spoil


def in_train(change):
    return lambda data, house: edit(data / "train.csv", change)


def in_sample(change):
    return lambda data, house: edit(data / "sample_submission.csv", change)


def in_contract(old, new):
    return lambda data, house: swap(house / CONTRACT, old, new)


def set_cell(column, value, row=3):
    def change(frame):
        frame.loc[row, column] = value
        return frame

    return change


# What is wrong -> what the one line says. All of these stop `folds`, before anything is trained.
WRONG_FOLDER = {
    "no train.csv": (lambda data, house: (data / "train.csv").unlink(), "train.csv does not exist"),
    "empty train.csv": (lambda data, house: (data / "train.csv").write_text(""), "cannot be read as CSV"),
    "train.csv is a folder": (
        lambda data, house: ((data / "train.csv").unlink(), (data / "train.csv").mkdir()),
        "train.csv cannot be read as CSV",
    ),
    "no test rows": (
        lambda data, house: (data / "sample_submission.csv").write_text("id,target\n"),
        "nothing to predict",
    ),
    "no target": (in_contract('target = "target"', "target = []"), "target"),
    "class twice": (
        in_contract('target = "target"', 'target = "target"\nclasses = ["ant", "ant"]'),
        "a name stands there twice",
    ),
    "metric path": (in_contract('"accuracy"', '":"'), "metric ':' cannot be imported"),
    "seed": (in_contract("n = 3", "n = 3\nseed = -1"), "folds.seed: Input should be greater than or equal to 0"),
    "no rows": (lambda data, house: (data / "train.csv").write_text("id,target\n"), "has no rows"),
    "id column": (in_contract('id = "id"', 'id = "idd"'), "no column 'idd'; did you mean 'id'?"),
    "target column": (in_contract('target = "target"', 'target = "targt"'), "did you mean 'target'?"),
    "unknown key": (in_contract("metric", "metrik"), "unknown key 'metrik'; did you mean 'metric'?"),
    "unknown metric": (in_contract('"accuracy"', '"acuracy"'), "unknown metric 'acuracy'; did you mean 'accuracy'?"),
    "metric of another task": (in_contract('"accuracy"', '"rmse"'), "'rmse' does not fit a multiclass task"),
    "unknown task": (in_contract('"multiclass"', '"multiclas"'), "task: Input should be"),
    "bad toml": (in_contract('metric = "accuracy"', "metric = accuracy"), "is not valid TOML"),
    "pattern without id": (in_contract("{id}", "x"), "images.pattern must contain {id}"),
    "wrong pattern": (
        in_contract("{id}.png", "{id}.jpg"),
        "has no image data/toy/train/i000.jpg: check images.pattern (there is",
    ),
    "no folder": (in_contract("{split}/", "{split}s/"), "the folder data/toy/trains does not exist"),
    "duplicate id": (in_train(set_cell("id", "i001")), "id 'i001' stands there 2 times"),
    "empty id": (in_train(set_cell("id", "")), "has an empty id"),
    "path in id": (in_train(set_cell("id", "../i003")), "'../i003' (row 5) would lead out of the data folder"),
    "absolute path": (in_train(set_cell("id", "/etc/passwd")), "would lead out of the data folder"),
    "nan target": (in_train(set_cell("target", "")), "id 'i003' has no value in column 'target'"),
    "label outside": (
        in_contract('target = "target"', 'target = "target"\nclasses = ["ant", "bee", "cat"]'),
        "which is not among the classes",
    ),
    "one class": (in_train(lambda f: f.assign(target="ant")), "has one class only"),
    "missing image": (lambda data, house: (data / "train/i005.png").unlink(), "id 'i005' has no image"),
    "empty image": (spoil_image("train/i005.png", lambda b: b""), "i005.png is empty (0 bytes)"),
    "sample id without image": (in_sample(set_cell("id", "nobody")), "id 'nobody' has no image"),
    "sample id not in test table": (
        lambda data, house: (
            (data / "test.csv").write_text("id\ni060\n"),
            swap(house / CONTRACT, 'id = "id"', 'id = "id"\ntest = "test.csv"'),
        ),
        "'i061' is not in data/toy/test.csv (23 such ids)",
    ),
    "no sample": (lambda data, house: (data / "sample_submission.csv").unlink(), "does not exist"),
    "fewer rows than folds": (in_contract("n = 3", "n = 61"), "60 labelled rows cannot fill 61 folds"),
    "fewer groups than folds": (
        in_contract("[folds]", "[group]\npattern = '^i0'\n[folds]"),
        "1 groups cannot fill 3 folds",
    ),
    "group pattern misses": (
        in_contract("[folds]", "[group]\npattern = '^i00'\n[folds]"),
        "gives no group for id 'i010'",
    ),
    "group pattern broken": (in_contract("[folds]", "[group]\npattern = '('\n[folds]"), "is not a regular expression"),
    "group column": (in_contract("[folds]", "[group]\ncolumn = 'who'\n[folds]"), "no column 'who'"),
    "group table": (in_contract("[folds]", "[group]\ntable = 'g.csv'\ncolumn = 'w'\n[folds]"), "g.csv does not exist"),
    "no group": (in_contract("n = 3", 'n = 3\nmethod = "group"'), "needs a [group] section"),
    "same image in both splits": (in_contract("{split}/", "train/../{split}/"), ""),
}
del WRONG_FOLDER["same image in both splits"]


@pytest.mark.parametrize("case", WRONG_FOLDER)
def test_folder_and_contract(case, house):
    data = make_competition(house, "multiclass")
    spoil, said = WRONG_FOLDER[case]
    spoil(data, house)
    with pytest.raises(UserError) as caught:
        prepare()
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert not list(house.glob("folds/*"))
    assert not list(house.glob("cache/**/table*"))
    assert not list(house.glob("**/*.tmp"))


WRONG_RUN = {
    "model": ("name = \"cnn\"", 'name = "resnet81"', "unknown model 'resnet81'; did you mean 'resnet18'?"),
    "options": ("widths", "width", "model.options do not fit 'cnn'"),
    "loss": ("[optim]", '[loss]\nname = "bce"\n[optim]', "unknown loss for a classification head 'bce'"),
    "recipe": ('recipe = "none"', 'recipe = "lite"', "unknown augmentation recipe 'lite'; did you mean 'light'?"),
    "optimizer": ("[optim]", '[optim]\nname = "adamv"', "unknown optimizer 'adamv'; did you mean 'adam'?"),
    "tta": ("[optim]", '[predict]\ntta = "hflp"\n[optim]', "unknown predict.tta 'hflp'; did you mean 'hflip'?"),
    "schedule": ("[optim]", '[optim]\nschedule = "cosin"', "unknown schedule 'cosin'; did you mean 'cosine'?"),
    "d4 on oblong": ("size = 12", 'size = [12, 16]\n[predict]\ntta = "d4"', "image.size must be square"),
    "head": ("[image]", 'head = "both"\n[image]', "model.head 'both' is not for a multiclass task"),
    "weights file": ('name = "cnn"\noptions = { widths = [8, 16] }', 'name = "test_resnet"\nweights = "w.pth"', "w.pth does not exist"),
    "type": ("epochs = 3", 'epochs = "3"', "epochs: Input should be a valid integer, got '3'"),
    "range": ("lr = 1e-2", "lr = -1.0", "optim.lr: Input should be greater than 0"),
    "contradiction": ("[optim]", '[average]\nswa = 0.5\nema = 0.9\n[optim]', "ema and swa exclude each other"),
    "stage": ('stage = "train"', 'stage = "trian"', "unknown stage 'trian'; did you mean 'train'?"),
    "key": ("epochs = 3", "epoch = 3", "unknown key 'epoch'; did you mean 'epochs'?"),
    "soup and swa": ("[optim]", '[average]\nsoup = 2\nswa = 0.5\n[optim]', "average: swa and soup exclude each other"),
    "soup of more epochs": ("[optim]", '[average]\nsoup = 4\n[optim]', "average.soup = 4 is of more epochs than epochs = 3"),
    "soup and best": (
        "epochs = 3", 'epochs = 3\nselect = "best"\naverage.soup = 2', 'select = "best" and average.soup exclude each other'
    ),
    "crop": ("size = 12", "size = 12\ncrop = 13", "image: crop = 13 is larger than size = 12"),
    "crop of oblong": ("size = 12", "size = [14, 12]\ncrop = 13", "crop = 13 is larger than size = [14, 12]"),
    "crops without a crop": ("[optim]", '[predict]\ntta = "5crop"\n[optim]', "predict.tta takes crops of the image: image.crop"),
    "hard crops": ("[optim]", '[predict]\nhard_tta = "10crop"\n[optim]', "predict.hard_tta takes crops of the image: image.crop"),
    "frozen noise": ("[optim]", '[optim]\nfreeze = "head"', 'optim.freeze = "head" keeps what was learnt: it needs model.weights'),
    "auto noise": ("[optim]", '[optim]\nfreeze = "auto"', 'optim.freeze = "auto" keeps what was learnt: it needs model.weights'),
    "groups of none": ("size = 12", 'size = 12\nnormalize = "group"', 'image.normalize = "group" needs [group] in configs/toy'),
    "batch of none": ("batch_size = 16", "batch_size = 0", "batch_size: Input should be greater than or equal to 1, got 0"),
    "batch of a word": ("batch_size = 16", 'batch_size = "all"', "batch_size: Input should be"),
    "cumulative of classes": ("[image]", 'head = "cumulative"\n[image]', "model.head 'cumulative' is not for a multiclass task"),
    "asymmetric of classes": ("[optim]", '[loss]\nname = "asymmetric"\n[optim]', "unknown loss for a classification head"),
    "quantile": ("[optim]", '[loss]\nquantile = 1.0\n[optim]', "loss.quantile: Input should be less than 1"),
    "milestone": ("[optim]", "[optim]\nmilestones = [0.5, 1.5]", "optim.milestones.1: Input should be less than or equal to 1"),
    "fp16 on a cpu": ("epochs = 3", 'epochs = 3\nprecision = "fp16"', "needs a GPU"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_RUN)
def test_run_config(case, house, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    make_competition(house, "multiclass")
    prepare()
    old, new, said = WRONG_RUN[case]
    swap(house / RUN, old, new)
    with pytest.raises(UserError) as caught:
        stage("train", "toy/a")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [p for p in house.glob("runs/**/*") if p.is_file() and p.name not in (".lock", "run.log")]


@pytest.mark.parametrize(
    "what, content",
    [
        ("truncated PNG", lambda b: b[: len(b) // 2]),
        ("not an image", lambda b: b"hello"),
    ],
)
def test_unreadable_image(what, content, house):
    data = make_competition(house, "multiclass")
    spoil_image("train/i007.png", content)(data, house)
    prepare()
    with pytest.raises(UserError, match=f"i007.png cannot be read: {what}.*i007.*skip-train"):
        stage("train", "toy/a")
    swap(house / RUN, "epochs = 3", 'epochs = 3\non_bad_image = "skip-train"')
    stage("train", "toy/a")
    receipts = [json.loads(p.read_text()) for p in house.glob("runs/toy/a/fold*/fold.json")]
    assert sorted(r["trained_on"]["rows"] for r in receipts) == [39, 39, 40]


def test_unreadable_test_image_is_never_skipped(house):
    data = make_competition(house, "multiclass")
    spoil_image("test/i070.png", lambda b: b"hello")(data, house)
    prepare()
    swap(house / RUN, "epochs = 3", 'epochs = 3\non_bad_image = "skip-train"')
    with pytest.raises(UserError, match=r"i070.png cannot be read.*every test row needs a prediction"):
        stage("train", "toy/a")


def test_image_changed_since_folds(house):
    data = make_competition(house, "multiclass")
    prepare()
    cv2.imwrite(str(data / "train/i003.png"), np.zeros((12, 12), np.uint8))
    with pytest.raises(UserError, match=r"i003.png has changed since the folds were made: run the same make again"):
        stage("train", "toy/a")
    assert not (house / "cache/toy/table.csv").exists()
    prepare()
    stage("train", "toy/a")


def test_jpeg_named_png_is_read(house):
    data = make_competition(house, "multiclass")
    image = cv2.imread(str(data / "train/i003.png"), cv2.IMREAD_UNCHANGED)
    (data / "train/i003.png").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    prepare()
    stage("train", "toy/a")


def test_other_fold_map_is_refused(house):
    make_competition(house, "multiclass")
    prepare()
    stage("train", "toy/a")
    swap(house / CONTRACT, "n = 3", "n = 4")
    stage("folds", "toy")
    with pytest.raises(UserError, match="written under another fold map"):
        stage("train", "toy/a")
    stage("train", "toy/b")
    with pytest.raises(UserError, match=r"'toy/b' has another fold map than 'toy/a'"):
        stage("ensemble", "toy/blend")


@pytest.mark.parametrize("what, said", [("rows", "row ids"), ("test", "test set"), ("classes", "class order")])
def test_member_of_other_rows_is_refused(what, said, house):
    make_competition(house, "multiclass")
    prepare()
    for name in ("a", "b"):
        stage("train", f"toy/{name}")
    path = house / "runs/toy/b/cv.json"
    receipt = json.loads(path.read_text())
    path.write_text(json.dumps({**receipt, what: receipt[what][::-1]}))
    with pytest.raises(UserError, match=f"'toy/b' has another {said} than 'toy/a'"):
        stage("ensemble", "toy/blend")


def test_damaged_member_is_refused(house):
    make_competition(house, "multiclass")
    prepare()
    for name in ("a", "b"):
        stage("train", f"toy/{name}")
    np.save(house / "runs/toy/a/oof.npy", np.zeros((60, 4), np.float32))
    with pytest.raises(UserError, match=r"member 'toy/a': runs/toy/a/oof.npy is not what its receipt says"):
        stage("ensemble", "toy/blend")


def test_member_not_trained(house):
    make_competition(house, "multiclass")
    prepare()
    with pytest.raises(UserError, match="member 'toy/a' has no runs/toy/a/cv.json"):
        stage("ensemble", "toy/blend")
    (house / "configs/toy/blend.toml").write_text('stage = "ensemble"\nmembers = ["blendd"]\n')
    with pytest.raises(UserError, match="no config configs/toy/blendd.toml; did you mean 'toy/blend'"):
        stage("ensemble", "toy/blend")


def test_mistyped_wandb_mode(house, monkeypatch):
    make_competition(house, "multiclass")
    prepare()
    monkeypatch.setenv("WANDB_MODE", "offlne")
    with pytest.raises(UserError, match="WANDB_MODE=offlne; did you mean 'offline'"):
        stage("train", "toy/a")


def test_nan_in_predictions_is_refused(house, monkeypatch):
    from pipeline.stages import submit

    monkeypatch.setattr(submit, "refuse_leaks", lambda run: None)  # the audit would tell of the same file
    make_competition(house, "binary")
    prepare()
    stage("train", "toy/a")
    receipt = json.loads((house / "runs/toy/a/cv.json").read_text())
    test = np.load(house / "runs/toy/a/test.npy")
    test[2] = np.nan
    np.save(house / "runs/toy/a/test.npy", test)
    from pipeline.store.files import digest_file

    receipt["outputs"]["runs/toy/a/test.npy"] = digest_file(house / "runs/toy/a/test.npy")
    (house / "runs/toy/a/cv.json").write_text(json.dumps(receipt))
    with pytest.raises(UserError, match="id 'i062' has no finite number"):
        stage("submit", "toy/a")
    assert not list(house.glob("submissions/**/*.csv"))


def test_sample_with_unknown_column(house):
    data = make_competition(house, "multiclass")
    prepare()
    stage("train", "toy/a")
    edit(data / "sample_submission.csv", lambda f: f.assign(other=0))
    with pytest.raises(UserError, match="are not the classes"):
        stage("submit", "toy/a")


def test_python_m_exits_with_2_and_one_line(house):
    make_competition(house, "multiclass")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.stages.train", "toy/nope"], cwd=house, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: no config configs/toy/nope.toml")
    assert len(done.stderr.splitlines()) == 1


def test_disk_full(house, monkeypatch):
    import errno

    make_competition(house, "multiclass")
    prepare()
    stage("train", "toy/a")
    before = {
        p: p.read_bytes() for p in house.glob("runs/toy/a/**/*") if p.is_file() and p.name not in ("run.log", ".lock")
    }
    swap(house / RUN, "epochs = 3", "epochs = 4")

    def full(array, *rest, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numpy.save", full)
    with pytest.raises(UserError, match="disk full while writing"):
        stage("train", "toy/a")
    monkeypatch.undo()
    monkeypatch.chdir(house)
    assert not list(house.glob("runs/**/*.tmp"))
    assert (house / "runs/toy/a/oof.npy").read_bytes() == before[house / "runs/toy/a/oof.npy"]
    stage("train", "toy/a")
    assert json.loads((house / "runs/toy/a/cv.json").read_text())["config"]["epochs"] == 4


def test_grades_are_counted_not_measured(house):
    data = make_competition(house, "ordinal", metric="mae")
    edit(data / "train.csv", lambda f: f.assign(target=f["target"].astype(int) + 1))
    prepare()
    with pytest.raises(UserError, match=r'metric mae needs grades 0, 1, 2, .*set task = "regression"'):
        stage("train", "toy/a")


def test_ranks_are_no_class_probabilities(house):
    make_competition(house, "multiclass", metric="roc_auc")
    (house / "configs/toy/blend.toml").write_text('stage = "ensemble"\nmembers = ["a", "b"]\nspace = "rank"\n')
    with pytest.raises(UserError, match='space = "rank" gives no probabilities'):
        stage("ensemble", "toy/blend")


def test_base_cycle(house):
    make_competition(house, "multiclass")
    (house / "configs/toy/x.toml").write_text('base = "y"\n')
    (house / "configs/toy/y.toml").write_text('base = "x"\n')
    prepare()
    with pytest.raises(UserError, match="configs form a cycle: toy/x -> toy/y -> toy/x"):
        stage("train", "toy/x")


def test_missing_data_folder(house):
    data = make_competition(house, "multiclass")
    shutil.rmtree(data)
    with pytest.raises(UserError, match=r"data/toy does not exist.*ln -s"):
        stage("data", "toy")
