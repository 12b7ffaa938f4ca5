"""Masks that teach masks: teacher, soft masks, students in halves, a blend of both, tags; through the real Make."""

import cv2
import numpy as np
import pandas as pd
import pytest
from mask_house import make_masks

from pipeline.audit.lineage import Lineage
from pipeline.audit.proofs import disorder
from pipeline.audit.refit import refit as refit_of
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import read_json, read_npy, write_npy

CHAIN = {
    "pseudo": 'stage = "pseudo"\nrun = "blend"\ntargets = "soft"\nthreshold = 0.5\n',
    "student": 'base = "a"\npseudo = "pseudo"\ndecision = "fixed"\n',
    "all": 'stage = "ensemble"\nmembers = ["a", "student"]\n',
    "tags": 'stage = "tag"\nrun = "all"\nsheet = 6\n',
}


def test_teacher_to_student(make, house):
    make_masks(house, n_test=24)
    for name, text in CHAIN.items():
        (house / f"configs/toy/{name}.toml").write_text(text)
    said = make("submit", "COMP=toy", "NAME=all").stderr
    assert "expected iou" in said
    assert "suspects" in make("tag", "COMP=toy", "NAME=tags").stderr
    for name in ("all", "tags"):
        audit = make("audit", "COMP=toy", f"NAME={name}").stdout
        assert "pseudo toy/pseudo" in audit
        assert "OK" in audit
    look_at_tags(house)
    tamper()
    second_round(make, house)
    files, student = RunFiles("toy/pseudo"), RunFiles("toy/student")
    frame, receipt = pd.read_csv(files.pseudo, dtype={"id": str}), read_json(files.receipt)
    assert list(frame.columns) == ["id", "repeat", "fold", "half", "weight"]
    assert set(receipt["outputs"]) == {str(files.pseudo), *(str(files.pseudo_maps(0, k)) for k in range(3))}
    assert receipt["precision"]["0"]["score"] > 0.5
    for k in range(3):
        both = [read_json(student.fold(k).half(h).receipt) for h in (0, 1)]
        assert both[0]["trained_on"]["rows"] + both[1]["trained_on"]["rows"] == 40 + (frame["fold"] == k).sum()
        assert "halves" in read_json(student.fold(k).receipt)
    levels = {name: set(read_json(RunFiles(f"toy/{name}").receipt)["level"].values()) for name in (*CHAIN, "a")}
    crossfit = {"all": {"crossfit"}, "tags": {"crossfit"}}
    assert levels == {"pseudo": {"blind"}, "student": {"blind"}, "a": {"blind"}, **crossfit}
    assert read_json(student.receipt)["metrics"]["score"] > 0.5
    assert np.isfinite(read_npy(student.test)).all()
    # Other soft masks are another student.
    assert make("-q", "submit", "COMP=toy", "NAME=all").returncode == 0
    (house / "configs/toy/pseudo.toml").write_text(CHAIN["pseudo"].replace("soft", "hard"))
    make("pseudo", "COMP=toy", "NAME=pseudo")
    assert set(np.unique(read_npy(files.pseudo_maps(0, 0)))) == {0, 1}
    assert read_json(student.receipt)["fit_hash"] != refit(make)


def look_at_tags(house):
    """Every image has a tag; scores are told of scored ones; the sheets are pictures."""
    files = RunFiles("toy/tags")
    found, review = pd.read_csv(files.difficulty), pd.read_csv(files.review)
    assert len(found) == 54
    assert set(found["tag"]) <= {"easy", "ambiguous", "hard", "suspect"}
    assert found["score"].notna().sum() == len(review) == 30
    assert found["p_error"].between(0, 1).all()
    assert found["doubt_at_edges"].between(0, 1).all()
    assert (found["wrong"][:30] == (found["score"][:30] < 0.5)).all()
    assert found["score"].mean() == pytest.approx(read_json(RunFiles("toy/all").receipt)["metrics"]["score"], abs=1e-6)
    assert all((house / path).exists() for path in review["path"])
    for name in ("suspects", "hard_train", "hard_test"):
        assert cv2.imread(str(files.sheet(name))) is not None
    assert not files.difficulty_train.exists()


def doubts(run):
    return [(d.fold, d.reason) for d in Lineage(refit_of).doubts(run)]


def tamper():
    """What other models say, other images and other weights are each found out."""
    files, student = RunFiles("toy/pseudo"), RunFiles("toy/student")
    assert doubts("toy/pseudo") == []
    path = files.pseudo_maps(0, 1)
    flat = np.array(read_npy(path))
    write_npy(path, np.clip(flat + np.float16(0.01), 0, 1))
    ((fold, reason),) = doubts("toy/pseudo")
    assert fold == 1
    assert "soft masks are not what models of fold 1 say" in reason
    write_npy(path, flat)
    text = files.pseudo.read_text()
    lines = text.splitlines(keepends=True)
    files.pseudo.write_text("".join([lines[0], *lines[2:]]))
    assert [(k, "other images are chosen" in reason) for k, reason in doubts("toy/pseudo")] == [(0, True)]
    files.pseudo.write_text(text.replace(",1\n", ",0.7\n", 1))
    assert [(k, "weigh otherwise" in reason) for k, reason in doubts("toy/pseudo")] == [(0, True)]
    files.pseudo.write_text(text)
    shelf = Lineage(refit_of).shelf("toy/student")
    path = student.fold(2).test
    kept = np.array(read_npy(path))
    assert list(disorder(shelf, {"pseudo": shelf.records.shelf("toy/pseudo")})) == []
    write_npy(path, np.array(read_npy(student.fold(2).half(0).test)))
    found = list(disorder(shelf, {"pseudo": shelf.records.shelf("toy/pseudo")}))
    assert any("rows of test.npy are not the predictions of the other half's student" in why for _, why in found)
    write_npy(path, kept)


def second_round(make, house):
    """The student teaches in its turn, by the joined maps of its halves; what masks have no answer to is told."""
    config = house / "configs/toy/again.toml"
    config.write_text('stage = "pseudo"\nrun = "student"\nquota = [1.0, 0.9]\nweight = "confidence"\n')
    make("pseudo", "COMP=toy", "NAME=again")
    receipt = read_json(RunFiles("toy/again").receipt)
    assert [set(state) for state in receipt["rounds"]] == [{"empty", "area"}] * 2
    assert doubts("toy/again") == []
    for line, why in (('select = "margin"', "confidence of their pixels"), ('tags = "tags"', "for a person to read")):
        config.write_text(f'stage = "pseudo"\nrun = "student"\n{line}\n')
        assert why in make("pseudo", "COMP=toy", "NAME=again", check=False).stderr
    (house / "configs/toy/tagged.toml").write_text('base = "a"\ntags = "tags"\n')
    assert "for a person to read" in make("train", "COMP=toy", "NAME=tagged", check=False).stderr


def refit(make):
    make("train", "COMP=toy", "NAME=student")
    return read_json(RunFiles("toy/student").receipt)["fit_hash"]
