"""make ablate: what it runs and says, resumed, refused; trainings are stood in for where only the arithmetic counts."""

import csv
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from house import make_competition, prepare, stage, write
from mask_house import make_masks
from tries import Trainer, table_of

from pipeline.store.errors import UserError
from pipeline.store.files import read_json
from pipeline.store.runs import load_run

ABLATION = """stage = "ablate"
base = "a"
[variants]
good = { optim.lr = 0.9 }
bad = { optim.lr = 0.1 }
same = { optim.lr = 0.7, optim.clip = 1.0 }
broken = { optim.lr = 0.5 }
views = { predict.tta = "hflip" }
"""
SKILL = {0.01: 0.7, 0.7: 0.7, 0.9: 0.95, 0.1: 0.3, 0.5: -1}


def skill(config):
    return SKILL[config.optim.lr]


def table(name="abl"):
    return {row["variant"]: row for row in csv.DictReader(Path(f"runs/toy/{name}/trials.csv").read_text().splitlines())}


@pytest.fixture
def toy(house):
    make_competition(house, "multiclass", n_train=240, n_test=8)
    prepare()
    write("abl", ABLATION)
    return house


@pytest.fixture
def trainer(toy, monkeypatch):
    return Trainer(monkeypatch, skill)


def test_what_helps_and_hurts_and_what_cannot_be_shown(trainer, capsys):
    stage("ablate", "toy/abl")
    rows, receipt = table(), read_json(Path("runs/toy/abl/cv.json"))
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "base": "", "good": "helps", "bad": "hurts", "same": "not shown", "broken": "", "views": "not shown",
    }  # fmt: skip
    assert list(rows)[:2] == ["base", "good"]
    assert rows["bad"]["seeds"] == "1"
    assert rows["bad"]["note"] == "stopped after one seed"
    assert rows["broken"]["note"].endswith("the loss is not finite")
    # Three seeds of the base, good and same, one of bad and broken; views share the models of the base; then the winner
    # and the base on fresh folds.
    assert len(trainer.fits) == 3 * 3 + 2 + 2 * 3
    assert len(trainer.predictions) == 3 * 4 + 1 + 2 * 3
    assert len(set(trainer.fits)) == len(trainer.fits)
    winner = receipt["winner"]
    assert (winner["name"], winner["verdict"]) == ("good", "confirmed")
    assert winner["effect"]["gain"] == pytest.approx(0.25, abs=0.1)
    assert "fresh folds (seed 1) and seeds 3 .. 5" in winner["where"]
    fresh = [read_json(p) for p in Path("runs/toy/abl").glob("*/folds1-*/cv.json")]
    assert len(fresh) == 6
    assert {each["fold_map"] for each in fresh} != {receipt["fold_map"]}
    assert {each["config"]["seed"] for each in fresh} == {3, 4, 5}
    assert any("a short schedule flatters no augmentation and punishes mixup" in note for note in receipt["notes"])
    assert receipt["metrics"]["score"] == pytest.approx(float(rows["base"]["score"]))
    ElementTree.parse("runs/toy/abl/forest.svg")
    log = Path("runs/toy/abl/run.log").read_text()
    assert "good*" in log
    assert f"{winner['effect']['gain']:+.4f}" in log
    stage("status")
    told = receipt["metrics"]
    assert f"done     toy/abl    accuracy {told['score']:.4f} +- {told['se']:.4f}" in capsys.readouterr().out


def test_scores_and_gains_are_those_of_the_predictions(trainer):
    write("abl", 'stage = "ablate"\nbase = "a"\nvariants.good.optim.lr = 0.9\n')
    stage("ablate", "toy/abl")
    rows, y = table(), truth()

    def scores(name):
        return [(np.load(f"runs/toy/abl/{name}/s{seed}/judged.npy") == y).mean() for seed in range(3)]

    assert float(rows["base"]["score"]) == pytest.approx(np.mean(scores("base")))
    assert float(rows["good"]["gain"]) == pytest.approx(np.mean(scores("good")) - np.mean(scores("base")))


def truth():
    known = table_of()
    return known.y[known.scored, 0]


def test_again_does_nothing_and_a_further_variant_runs_alone(trainer):
    stage("ablate", "toy/abl")
    fits, first = len(trainer.fits), table()
    stage("ablate", "toy/abl")
    assert len(trainer.fits) == fits
    write("abl", ABLATION + "further = { optim.lr = 0.9, optim.clip = 2.0 }\n")
    stage("ablate", "toy/abl")
    assert {run.split("/")[2] for run in trainer.fits[fits:]} <= {"further"}
    assert {name: row["gain"] for name, row in table().items() if name in first} == {
        n: r["gain"] for n, r in first.items()
    }


def test_killed_and_run_again(trainer):
    """In the first round, twice in the second and where the winner is measured again."""
    for stop_at in (4, 9, 10, 12):
        trainer.stop_at = stop_at
        with pytest.raises(KeyboardInterrupt):
            stage("ablate", "toy/abl")
        assert len(trainer.fits) == stop_at
        assert not Path("runs/toy/abl/cv.json").exists()
    trainer.stop_at = None
    stage("ablate", "toy/abl")
    assert len(set(trainer.fits)) == len(trainer.fits) == 17  # nothing twice
    kept = {name: (row["gain"], row["p_holm"], row["verdict"], row["note"]) for name, row in table().items()}
    Path("runs/toy").rename("before")
    stage("ablate", "toy/abl")
    assert {name: (row["gain"], row["p_holm"], row["verdict"], row["note"]) for name, row in table().items()} == kept


def test_where_folds_cannot_be_drawn_anew_the_winner_has_fresh_seeds(house, monkeypatch):
    make_competition(house, "multiclass", n_train=90, n_test=8)
    prepare()
    path = Path("folds/toy.csv")
    lines = path.read_text().splitlines()
    name, fold = lines[3].split(",")
    lines[3] = f"{name},{(int(fold) + 1) % 3}"
    path.write_text("\n".join(lines) + "\n")
    prepare()
    write("abl", 'stage = "ablate"\nbase = "a"\nseeds = 2\nvariants.good.optim.lr = 0.9\n')
    Trainer(monkeypatch, skill)
    stage("ablate", "toy/abl")
    where = read_json(Path("runs/toy/abl/cv.json"))["winner"]["where"]
    assert where.startswith("on the same folds and seeds 2 .. 3 (folds that are stratified, edited by hand cannot")


def test_a_base_that_fails_is_told(toy, monkeypatch):
    Trainer(monkeypatch, lambda config: -1)
    with pytest.raises(UserError, match="toy/abl/base/s0: the loss is not finite"):
        stage("ablate", "toy/abl")


def test_trained_in_earnest(toy):
    """Real networks, some folds, another number of steps; as many steps for a batch of twice the size."""
    write("abl", """stage = "ablate"
base = "a"
seeds = 2
steps = 20
folds = [0, 2]
[variants]
cold = { optim.lr = 1e-6 }
double = { batch_size = 32 }
""")  # fmt: skip
    stage("ablate", "toy/abl")
    rows = table()
    assert float(rows["base"]["score"]) > 0.8
    assert rows["cold"]["verdict"] == "hurts"
    assert (rows["base"]["epochs"], rows["double"]["epochs"]) == ("2", "4")
    assert all(abs(int(row["steps"]) - 20) <= 5 for row in rows.values())
    assert all(float(row["seconds"]) > 0 and float(row["memory_mb"]) > 100 for row in rows.values())
    assert np.load("runs/toy/abl/base/s1/judged.npy").shape == (160,)
    assert not list(Path("runs/toy/abl").rglob("*.safetensors"))
    assert sorted(p.name for p in Path("configs/toy").iterdir()) == sorted(
        ["a.toml", "abl.toml", "b.toml", "blend.toml", "competition.toml"]
    )


def test_masks_and_choices_of_epochs(house):
    make_masks(house, n_train=12, n_test=3)
    prepare()
    text = 'decision = "fixed"\nvariants.views.predict.tta = "hflip"\nvariants.best.select = "best"\n'
    write("abl", 'stage = "ablate"\nbase = "a"\nseeds = 2\nsteps = 4\n' + text)
    stage("ablate", "toy/abl")
    rows = table()
    assert {name: row["seeds"] for name, row in rows.items()} == {"base": "2", "views": "2", "best": "2"}
    assert read_json(Path("runs/toy/abl/best/s0/cv.json"))["level"] == "crossfit"
    assert not list(Path("runs/toy/abl").rglob("oof.npy"))


WRONG = {
    'stage = "ablate"\n[variants]\nx.optim.lr = 0.9\n': "base is missing: name the run to change",
    'stage = "ablate"\nbase = "blend"\n[variants]\nx.optim.lr = 0.9\n': "base = 'blend' is of stage ensemble",
    'stage = "ablate"\nbase = "a"\n': "[variants] must be a table of changes",
    'stage = "ablate"\nbase = "a"\nvariants.x = 3\n': "[variants.x] must be a table of changes",
    'stage = "ablate"\nbase = "a"\nvariant.x.optim.lr = 0.9\n': "unknown key 'variant'; did you mean 'variants'",
    'stage = "ablate"\nbase = "a"\nvariants.x.optim.lrr = 0.9\n': "variants.x: unknown key 'optim.lrr'; did you mean 'lr'",
    'stage = "ablate"\nbase = "a"\nvariants.x.optim.lr = 0.01\n': "variants.x changes nothing",
    'stage = "ablate"\nbase = "a"\nvariants.x.epochs = 9\n': "epochs cannot be changed here: epochs follow from steps",
    'stage = "ablate"\nbase = "a"\nvariants.x.seed = 9\n': "seed cannot be changed here",
    'stage = "ablate"\nbase = "a"\nvariants.base.optim.lr = 0.9\n': "variants.base: name it by letters",
    'stage = "ablate"\nbase = "a"\nvariants."a/b".optim.lr = 0.9\n': "variants.a/b: name it by letters",
    'stage = "ablate"\nbase = "a"\nvariants.x.batch_size = "auto"\n': 'batch_size = "auto" leaves the number of steps open',
    'stage = "ablate"\nbase = "a"\nseeds = 1\nvariants.x.optim.lr = 0.9\n': "seeds: Input should be greater than or equal to 2",
    'stage = "ablate"\nbase = "a"\nsteps = 2\nvariants.x.optim.lr = 0.9\n': "steps = 2 is less than one epoch of base, which has 10",
    'stage = "ablate"\nbase = "a"\nsteps = 12\nvariants.x.batch_size = 2\n': "less than one epoch of variants.x",
    'stage = "ablate"\nbase = "a"\nfolds = [0, 5]\nvariants.x.optim.lr = 0.9\n': "there is no fold 5; choices: [0, 1, 2]",
    'stage = "ablate"\nbase = "a"\nfolds = [0, 0]\nvariants.x.optim.lr = 0.9\n': "a fold stands there twice",
    'stage = "ablate"\nbase = "a"\nfolds = [0]\nvariants.x.select = "best"\n': "it needs all of them",
    'stage = "ablate"\nbase = "a"\nvariants.x.model.name = "resnet"\n': "resnet",
    'stage = "ablate"\nbase = "a"\nvariants.x.augment.recipe = "lihgt"\n': "did you mean 'light'",
    'stage = "ablate"\nbase = "a"\nsteps = 20\nvariants.x.average.soup = 3\n': "variants.x, 2 epochs: average.soup = 3",
    'stage = "ablate"\nbase = "a"\nvariants.x.teacher = "b"\n': "toy/b",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_one_line_before_anything_is_trained(text, toy, monkeypatch):
    trainer = Trainer(monkeypatch, skill)
    write("abl", text)
    with pytest.raises(UserError) as caught:
        stage("ablate", "toy/abl")
    assert WRONG[text] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not trainer.fits
    if "teacher" not in text:
        assert "configs/toy/abl.toml" in str(caught.value)


def test_other_stages_refuse_it_and_it_refuses_others(trainer):
    write("m", 'stage = "ensemble"\nmembers = ["abl"]\n')
    write("abl", 'stage = "ablate"\nbase = "a"\nseeds = 2\nvariants.good.optim.lr = 0.9\n')
    stage("ablate", "toy/abl")
    for name, run, said in (
        ("train", "toy/abl", 'stage = "ablate": run make ablate'),
        ("ablate", "toy/a", 'stage = "train": run make train'),
        ("ensemble", "toy/m", "is of stage ablate"),
        ("submit", "toy/abl", "is of stage ablate: it predicts nothing"),
    ):
        with pytest.raises(UserError, match=said):
            stage(name, run)


def test_a_variation_of_an_ablation(toy, monkeypatch):
    monkeypatch.setenv("SET", "seeds=2 variants.more.optim.lr=0.7")
    stage("vary", "toy/abl", "abl2")
    config = load_run("toy/abl2")
    assert list(config.variants) == ["good", "bad", "same", "broken", "views", "more"]
    assert (config.seeds, config.base) == (2, load_run("toy/a"))
