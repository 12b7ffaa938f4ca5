"""status, ledger, vary."""

import pandas as pd
import pytest
from house import make_competition, prepare, stage

from pipeline.store.errors import UserError


def test_status_tells_done_stale_partial_broken(house, capsys):
    make_competition(house, "multiclass")
    stage("status")
    assert capsys.readouterr().out.count("not run") == 3
    prepare()
    stage("train", "toy/a")
    (house / "configs/toy/b.toml").write_text('base = "a"\nepochs = "x"\n')
    capsys.readouterr()
    stage("status")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("done     toy/a      accuracy ")
    assert lines[1].startswith("broken   toy/b      configs/toy/b.toml: epochs: ")
    assert lines[2].startswith("not run  toy/blend")
    (house / "configs/toy/a.toml").write_text(
        (house / "configs/toy/a.toml").read_text().replace("epochs = 3", "epochs = 4")
    )
    stage("status")
    assert capsys.readouterr().out.startswith("stale    toy/a      its config")
    (house / "runs/toy/a/cv.json").unlink()
    stage("status")
    assert capsys.readouterr().out.startswith("partial  toy/a      3 fold(s) done")
    (house / "runs/toy/a/cv.json").write_text("{")
    stage("status")
    assert capsys.readouterr().out.startswith("broken   toy/a      runs/toy/a/cv.json is not valid JSON")


def test_status_of_an_empty_house(house, capsys):
    stage("status")
    assert "no run yet" in capsys.readouterr().out


def test_ledger_by_hand(house, capsys, monkeypatch):
    stage("ledger")
    assert "no submission yet" in capsys.readouterr().out
    make_competition(house, "regression")
    prepare()
    stage("train", "toy/b")
    stage("submit", "toy/b")
    monkeypatch.setenv("PUBLIC", "0.91")
    stage("ledger", "toy/b")
    assert "0.9100" in capsys.readouterr().out
    assert pd.read_csv("submissions/ledger.csv")["public"].tolist() == [0.91]
    for value, said in (("x", "is not a number"), ("nan", "is not a finite number")):
        monkeypatch.setenv("PUBLIC", value)
        with pytest.raises(UserError, match=said):
            stage("ledger", "toy/b")
    monkeypatch.setenv("PUBLIC", "0.5")
    with pytest.raises(UserError, match="say which submission"):
        stage("ledger")


@pytest.mark.parametrize(
    "name, changes, said",
    [
        ("a", "epochs=1", "exists already"),
        ("competition", "epochs=1", "not 'competition'"),
        ("../x", "epochs=1", "use letters"),
        ("c", "", "nothing to change"),
        ("c", "epochs", "write key=value"),
        ("c", "epoch=1", "did you mean 'epochs'"),
        ("c", "epochs=3 epochs=4", "a key stands there twice"),
        ("c", "optim.name=it's", "cannot be divided"),
        ("c", "epochs=x", "epochs: Input should be a valid integer"),
    ],
)
def test_vary_refuses(name, changes, said, house, monkeypatch):
    make_competition(house, "binary")
    monkeypatch.setenv("SET", changes)
    before = (house / "configs/toy/a.toml").read_text()
    with pytest.raises(UserError, match=said):
        stage("vary", "toy/a", name)
    assert not (house / "configs/toy/c.toml").exists()
    assert (house / "configs/toy/a.toml").read_text() == before


def test_vary_of_a_vary(house, monkeypatch):
    make_competition(house, "binary")
    monkeypatch.setenv("SET", "optim.lr=3e-4 model.name=test_vit image.size=[12,16]")
    stage("vary", "toy/b", "c")
    from pipeline.store.runs import load_run

    config = load_run("toy/c")
    assert (config.optim.lr, config.model.name, config.image.size) == (3e-4, "test_vit", [12, 16])
    assert (config.seed, config.epochs, config.batch_size) == (1, 2, 16)
