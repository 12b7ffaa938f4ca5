"""Masks that teach masks: teacher, soft masks, students in halves, a blend of both, tags; through the real Make."""

import numpy as np
import pandas as pd
from mask_house import make_masks

from pipeline.store.artifacts import RunFiles
from pipeline.store.files import read_json, read_npy

CHAIN = {
    "pseudo": 'stage = "pseudo"\nrun = "blend"\ntargets = "soft"\nthreshold = 0.5\n',
    "student": 'base = "a"\npseudo = "pseudo"\n',
    "all": 'stage = "ensemble"\nmembers = ["a", "student"]\n',
}


def test_teacher_to_student(make, house):
    make_masks(house, n_test=24)
    for name, text in CHAIN.items():
        (house / f"configs/toy/{name}.toml").write_text(text)
    said = make("submit", "COMP=toy", "NAME=all").stderr
    assert "expected iou" in said
    audit = make("audit", "COMP=toy", "NAME=all").stdout
    assert "pseudo toy/pseudo" in audit
    assert "OK" in audit
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
    assert levels == {"pseudo": {"blind"}, "student": {"blind"}, "all": {"crossfit"}, "a": {"blind"}}
    assert read_json(student.receipt)["metrics"]["score"] > 0.5
    assert np.isfinite(read_npy(student.test)).all()
    # Other soft masks are another student.
    assert make("-q", "submit", "COMP=toy", "NAME=all").returncode == 0
    (house / "configs/toy/pseudo.toml").write_text(CHAIN["pseudo"].replace("soft", "hard"))
    make("pseudo", "COMP=toy", "NAME=pseudo")
    assert set(np.unique(read_npy(files.pseudo_maps(0, 0)))) == {0, 1}
    assert read_json(student.receipt)["fit_hash"] != refit(make)


def refit(make):
    make("train", "COMP=toy", "NAME=student")
    return read_json(RunFiles("toy/student").receipt)["fit_hash"]
