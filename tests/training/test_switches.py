"""Switches that make no sense for a task are one line, before anything is trained."""

import pytest
from house import make_competition, prepare, stage
from school import write

from pipeline.store.errors import UserError

CRT, NCM, TAU = (f'[decouple]\nmethod = "{method}"\n' for method in ("crt", "ncm", "tau"))
PRIOR = "[predict]\nlogit_adjust = 1.5\n"
CASES = {
    "regression": [
        ('sampling.balance = "sqrt"', "sampling.balance needs classes"),
        ("sampling.repeat = { x = 2 }", "sampling.repeat needs classes"),
        ('fit = "linear"\nsampling.synthetic = "smote"', "sampling.synthetic needs classes"),
        ("loss.logit_adjust = 1.0", r"loss\.logit_adjust needs classes, and the head"),
        (CRT, "needs classes; a regression has none"),
        (PRIOR, r"predict\.logit_adjust needs classes"),
    ],
    "ordinal": [
        (PRIOR, 'set model.head = "classification"'),
        (NCM, 'set model.head = "classification", or use "crt"'),
        ('fit = "linear"\n' + PRIOR, "predicts grades, not classes"),
    ],
    "binary": [(TAU, "compares classes that exclude each other")],
    "multiclass": [
        ("sampling.repeat = { bea = 2 }", "no class 'bea'; did you mean 'bee'"),
        ('sampling = { repeat = { bee = 2 }, balance = "sqrt" }', "balance and repeat exclude each other"),
        ("sampling.repeat = { bee = 0.5 }", "greater than or equal to 1"),
        ("sampling.equal = true", "sampling.equal is about masks"),
        ("loss.auxiliary = { age = 1.0 }", r"which \[auxiliary\] does not name"),
        ("indicators = true\n" + NCM, "is of real classes"),
        ('fit = "linear"\n' + CRT, r"takes no decouple\.method"),
        ('fit = "linear"\nloss.logit_adjust = 1.0', r"takes no loss\.logit_adjust \(predict\.logit_adjust is\)"),
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
