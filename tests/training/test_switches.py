"""Switches that make no sense for a task are one line, before anything is trained."""

import pytest
from house import make_competition, prepare, stage, write

from pipeline.store.errors import UserError

CRT, NCM, TAU = (f'[decouple]\nmethod = "{method}"\n' for method in ("crt", "ncm", "tau"))
ARCFACE = 'metric_learning.loss = "arcface"'
PRIOR = "[predict]\nlogit_adjust = 1.5\n"
CASES = {
    "regression": [
        ('sampling.balance = "sqrt"', "sampling.balance needs classes"),
        ("sampling.repeat = { x = 2 }", "sampling.repeat needs classes"),
        ('fit = "linear"\nsampling.synthetic = "smote"', "sampling.synthetic needs classes"),
        ("loss.logit_adjust = 1.0", r"loss\.logit_adjust needs classes, and the head"),
        (CRT, "needs classes; a regression has none"),
        (PRIOR, r"predict\.logit_adjust needs classes"),
        ('metric_learning.loss = "triplet"', "metric_learning. is for binary or multiclass"),
        ("retrieval.k = 3", "retrieval.k is for binary or multiclass or ordinal"),
        ('semi.method = "fixmatch"', "values have none"),
    ],
    "ordinal": [
        (PRIOR, 'set model.head = "classification"'),
        (NCM, 'set model.head = "classification", or use "crt"'),
        ('fit = "linear"\n' + PRIOR, "predicts grades, not classes"),
        ("metric_learning.neck = true", "not for ordinal"),
    ],
    "binary": [
        (TAU, "compares classes that exclude each other"),
        (ARCFACE, "is for multiclass, not for binary"),
    ],
    "multilabel": [("sampling.per_class = 4", "sampling.per_class is for binary")],
    "multiclass": [
        ("sampling.repeat = { bea = 2 }", "no class 'bea'; did you mean 'bee'"),
        ('sampling = { repeat = { bee = 2 }, balance = "sqrt" }', "balance and repeat exclude each other"),
        ("sampling.repeat = { bee = 0.5 }", "greater than or equal to 1"),
        ("sampling.equal = true", "sampling.equal is about masks"),
        ("loss.auxiliary = { age = 1.0 }", r"which \[auxiliary\] does not name"),
        ("indicators = true\n" + NCM, "is of real classes"),
        ('fit = "linear"\n' + CRT, r"takes no decouple\.method"),
        ('fit = "linear"\nloss.logit_adjust = 1.0', r"takes no loss\.logit_adjust \(predict\.logit_adjust is\)"),
        ('metric_learning.loss = "triplet"\naugment.mixup = 0.2', "a mixed row is of none"),
        (ARCFACE + '\nmetric_learning.margin = "soft"', "that of arcface is an angle"),
        (ARCFACE + "\nmetric_learning.margin = 1.6", "that of arcface is an angle"),
        ('metric_learning.neck = true\nmodel.head_bias = "prior"', "leaves the head without one"),
        (ARCFACE + "\n" + TAU, "lengths of weights"),
        ("indicators = true\n" + ARCFACE, "excludes indicators"),
        ('fit = "linear"\nmetric_learning.neck = true', "takes no .metric_learning."),
        ("metric_learning.margni = 0.1", "did you mean 'margin'"),
        ("sampling.per_class = 3", "set batch_size to a multiple of it"),
        ("sampling.per_class = 16", "set batch_size to a multiple of it, 32 or more"),
        ('sampling = { per_class = 4, balance = "sqrt" }', "balance and per_class exclude each other"),
        ('sampling = { balance = "clusters", clusters = 41 }', "sampling.clusters = 41: a model trains on 40 rows"),
        ("retrieval.k = 41", "retrieval.k = 41: a model trains on 40 rows"),
        ("retrieval = { k = 3, pca = 17 }", "retrieval.pca = 17: a model has 16 components at most"),
        ("retrieval.pca = 3", "set k, how many neighbours count"),
        ("retrieval = { k = 3, whiten = true }", "whiten is of principal components"),
        ('semi.method = "mmt"\npairs = true', "excludes pairs"),
        ('semi.method = "mean_teacher"\naverage.ema = 0.9', "excludes average"),
        ('semi.method = "fixmatch"\nadversarial.method = "awp"', "excludes adversarial"),
        ('semi.method = "fixmatch"\nselect = "best"', "excludes select"),
        ('fit = "linear"\nsemi.method = "fixmatch"', "takes no semi.method"),
    ],
}


@pytest.mark.parametrize("task", CASES)
def test_what_makes_no_sense_is_one_line(house, task):
    make_competition(house, task)
    prepare()
    for lines, said in CASES[task]:
        write("n", f'base = "a"\n{lines}\n')
        with pytest.raises(UserError, match=said) as caught:
            stage("train", "toy/n")
        assert "configs/toy/n.toml" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not list((house / "runs/toy/n").glob("fold*"))


def test_smote_is_asked_for_before_anything_is_computed(house, monkeypatch):
    make_competition(house, "multiclass")
    prepare()
    write("n", 'base = "a"\nfit = "linear"\nsampling.synthetic = "smote"\n')
    monkeypatch.setattr("pipeline.training.switches.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs imbalanced-learn: pip install imbalanced-learn"):
        stage("train", "toy/n")
    assert not (house / "cache/toy/features").exists()
