"""Features of a network that stays as it is, and a head on them."""

import numpy as np
import pytest
from house import make_competition, prepare, stage, write
from school import job_of
from sklearn.linear_model import LogisticRegression

from pipeline.audit.refit import refit
from pipeline.audit.report import audit
from pipeline.scoring.stack import GRIDS
from pipeline.store.artifacts import CompetitionFiles, RunFiles
from pipeline.store.errors import UserError
from pipeline.store.files import read_json
from pipeline.training import frozen
from pipeline.training.readable import labelled_images


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch):
    monkeypatch.setitem(GRIDS, "boosted", {"max_leaf_nodes": [3, 8], "max_iter": [25]})


def score(run):
    return read_json(RunFiles(run).receipt)["metrics"]["score"]


@pytest.mark.parametrize("fit", ["linear", "boosted"])
@pytest.mark.parametrize("task, enough", [
    ("binary", 0.8), ("multiclass", 0.4), ("multilabel", 0.5), ("ordinal", 0.3), ("regression", -1.2),
])  # fmt: skip
def test_a_shelf_like_any_other(task, enough, fit, house):
    # Boosted trees learn nothing from leaves of less than twenty rows.
    make_competition(
        house,
        task,
        n_train=60 if fit == "linear" else 240,
        extra="holdout = 0.1\nrepeats = 2\n" if task == "binary" else "holdout = 0.1\n",
    )
    prepare()
    write("f", f'base = "a"\nfit = "{fit}"\n[predict]\ntta = "hflip"\n')
    write("tags", 'stage = "tag"\nrun = "f"\n')
    write("final", 'stage = "lb"\nrun = "f"\n')
    for name, run in (("train", "f"), ("tag", "tags"), ("lb", "final"), ("submit", "final")):
        stage(name, f"toy/{run}")
    assert (-score("toy/f") if task == "regression" else score("toy/f")) > enough
    assert not audit("toy/final", refit).findings
    assert len(list(CompetitionFiles("toy").features.glob("*.npy"))) == 3  # labelled, test, holdout: once for all folds


def test_the_head_is_that_of_scikit_learn_and_never_sees_its_fold(house):
    make_competition(house, "multiclass")
    prepare()
    write("f", 'base = "a"\nfit = "linear"\n')
    stage("train", "toy/f")
    job = job_of("toy/f")
    images, _ = labelled_images(job)
    x, folds = frozen.features(job, images, job.table.labelled), job.table.folds[job.table.scored]
    y = job.table.y[job.table.scored, 0].astype(int)
    oof = np.load(RunFiles("toy/f").oof)
    for k in range(3):
        rows = np.load(RunFiles("toy/f").fold(k).rows)
        assert set(rows) == set(job.table.scored[folds != k])
        mine = x[folds != k]
        scaled = (x - mine.mean(0)) / np.where(mine.std(0) > 0, mine.std(0), 1)
        near = [
            np.abs(LogisticRegression(C=c, max_iter=1000).fit(scaled[folds != k], y[folds != k])
                   .predict_proba(scaled[folds == k]) - oof[folds == k]).max()
            for c in (0.001, 0.01, 0.1, 1.0, 10.0)
        ]  # fmt: skip
        assert min(near) < 1e-3


def test_features_are_of_the_images_and_the_network(house, monkeypatch):
    make_competition(house, "multiclass")
    prepare()
    write("f", 'base = "a"\nfit = "linear"\n')
    write("g", 'base = "f"\nseed = 4\n')
    stage("train", "toy/f")
    monkeypatch.setattr(frozen, "embed", None)
    write("h", 'base = "f"\nfit = "boosted"\n')
    stage("train", "toy/h")  # the same features
    with pytest.raises(TypeError):
        stage("train", "toy/g")  # an untrained network of another seed is another network


@pytest.mark.parametrize(
    "line, said",
    [
        ('init = "a"', "takes no init"),
        ('image.normalize = "train"', "takes no image.normalize"),
        ('predict.hard_tta = "hflip"', "takes no predict.hard_tta"),
        ('select = "best"', "takes no select"),
        ('teacher = "a"', "takes no teacher"),
        ('sampling.balance = "sqrt"', "takes no sampling.balance"),
        ('sampling.balance = "clusters"', "takes no sampling.balance"),
        ('model.head_init = "xavier"', "takes no model.head_init"),
        ('model.head_bias = "prior"', "takes no model.head_bias"),
    ],
)
def test_contradictions_are_one_line(house, line, said):
    make_competition(house, "multiclass")
    prepare()
    write("f", f'base = "a"\nfit = "linear"\n{line}\n')
    with pytest.raises(UserError, match=said):
        stage("train", "toy/f")


def test_another_decoder_is_another_feature(house, monkeypatch):
    make_competition(house, "multiclass")
    own = house / "reader.py"
    text = "import cv2, numpy as np\ndef read(data):\n    return cv2.imdecode(np.frombuffer(data, np.uint8), 0)\n"
    own.write_text(text)
    monkeypatch.syspath_prepend(house)
    contract = house / "configs/toy/competition.toml"
    contract.write_text(contract.read_text().replace("[images]\n", '[images]\ndecoder = "reader:read"\n'))
    prepare()
    write("f", 'base = "a"\nfit = "linear"\n')
    stage("train", "toy/f")
    before = set(CompetitionFiles("toy").features.glob("*.npy"))
    own.write_text(text + "# another one\n")
    stage("train", "toy/f")
    assert len(set(CompetitionFiles("toy").features.glob("*.npy")) - before) == 2


def test_synthetic_rows_are_of_the_rows_that_are_trained_on(house):
    make_competition(house, "multiclass")
    prepare()
    write("f", 'base = "a"\nfit = "linear"\n')
    write("g", 'base = "f"\nsampling.synthetic = "smote"\n')
    stage("train", "toy/f")
    stage("train", "toy/g")
    assert not np.array_equal(np.load(RunFiles("toy/f").oof), np.load(RunFiles("toy/g").oof))
    for k in range(3):
        assert np.array_equal(np.load(RunFiles("toy/f").fold(k).rows), np.load(RunFiles("toy/g").fold(k).rows))
    write("h", 'base = "a"\nsampling.synthetic = "smote"\n')
    with pytest.raises(UserError, match="sampling.synthetic makes rows of features"):
        stage("train", "toy/h")
