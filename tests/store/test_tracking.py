"""What a run tells Weights & Biases, read back from the offline files."""

import json
import os
import subprocess
import sys
from pathlib import Path

from house import make_competition, prepare, stage


def records(folder):
    """Read an offline run with W&B's own reader, one record a line."""
    (path,) = folder.glob("*.wandb")
    wandb = Path(sys.executable).with_name("wandb")
    done = subprocess.run([wandb, "leet", "inspect", "--json", path], check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_offline_run_holds_history_config_and_summary(house):
    make_competition(house, "multiclass")
    prepare()
    env = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-m", "pipeline.stages.train", "toy/a"], env=env, check=True, capture_output=True)
    folders = sorted((house / "runs/toy/a/wandb").glob("offline-run-*"))
    assert len(folders) == 3
    folds = []
    for folder in folders:
        found = records(folder)
        (run,) = (r["run"] for r in found if r["type"] == "run")
        rows = [r["history"]["item"] for r in found if r["type"] == "history"]
        summary = {k: v for r in found if r["type"] == "summary" for k, v in r["summary"]["update"].items()}
        artifacts = [r["artifact"]["name"] for r in found if r["type"] == "artifact"]
        config = run["config"]["update"]
        fold = int(config["part"].removeprefix("fold "))
        folds.append(fold)
        assert (run["run_group"], run["job_type"], run["display_name"]) == ("toy/a", "train", f"toy/a/fold {fold}")
        assert config["optim"]["lr"] == 1e-2
        log = [json.loads(line) for line in (house / f"runs/toy/a/fold{fold}/log.jsonl").read_text().splitlines()]
        epochs = [entry for entry in log if "valid_loss" in entry]
        logged = [row for row in rows if "valid_loss" in row]
        assert len(epochs) == 3
        for name in ("epoch", "train_loss", "valid_loss", "valid_accuracy"):
            assert [row[name] for row in logged] == [entry[name] for entry in epochs]
        assert any("oof.nrows" in row for row in rows)
        receipt = json.loads((house / f"runs/toy/a/fold{fold}/fold.json").read_text())
        assert summary["oof_accuracy"] == receipt["metrics"]["accuracy"]
        assert f"toy-a-fold{fold}" in artifacts
    assert sorted(folds) == [0, 1, 2]
    assert not (house / "wandb").exists()


def test_disabled_does_not_import_wandb(house):
    make_competition(house, "binary")
    prepare()
    code = (
        "import sys, argparse\nfrom pipeline.stages import train\ntrain.run(argparse.Namespace(run='toy/b'))\n"
        "assert 'wandb' not in sys.modules"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)


def test_submission_becomes_an_artefact(house, monkeypatch):
    sent = []

    class FakeTracker:
        def summary(self, numbers):
            sent.append(numbers)

        def artifact(self, name, kind, *paths):
            sent.append((name, kind, *map(str, paths)))

    import contextlib

    @contextlib.contextmanager
    def fake(files, stage_name, config, key, fold=None):
        yield FakeTracker()

    make_competition(house, "multiclass")
    prepare()
    stage("train", "toy/b")
    monkeypatch.setattr("pipeline.store.tracking.track", fake)
    stage("submit", "toy/b")
    assert sent[1] == ("toy/b-submission", "submission", "submissions/toy/b.csv")
    assert sent[0]["cv"] == json.loads((house / "runs/toy/b/cv.json").read_text())["metrics"]["score"]
