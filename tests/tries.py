"""Trials that nobody trains: what a run would predict is told by its settings, so that the truth is known."""

import numpy as np

from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.errors import UserError
from pipeline.store.files import write_npy
from pipeline.store.keys import read_table_facts
from pipeline.store.table import read_table
from pipeline.trials import trial


class Trainer:
    """Stands in for the training: the predictions of a run are as good as `skill(config)` says, from 0 to 1.

    Single predictions hang on run, seed and fold, as those of networks do. `stop_at` kills it in that fit.
    """

    def __init__(self, monkeypatch, skill):
        self.skill, self.fits, self.predictions, self.stop_at = skill, [], [], None
        monkeypatch.setattr(trial, "fit_models", self.fit)
        monkeypatch.setattr(trial, "predict", self.predict)

    def fit(self, job, folds, bars):
        if self.stop_at == len(self.fits):
            raise KeyboardInterrupt
        self.fits.append(job.files.run)
        if self.skill(job.config) < 0:
            raise UserError(f"{job.files.run}: the loss is not finite")

    def predict(self, home, job, folds):
        self.predictions.append(job.files.run)
        table, task = job.table, job.task
        for k in folds:
            rows = table.scored[table.folds[table.scored] == k]
            name = f"{job.config.model_dump_json()}{k}"
            rng = np.random.default_rng(list(name.encode()))
            skill = self.skill(job.config) + 0.02 * rng.normal()
            right = rng.random(len(rows)) < skill
            y = table.y[rows, 0].astype(int)
            said = np.where(right, y, (y + 1 + rng.integers(0, 3, len(rows))) % 4)
            write_npy(job.files.fold(k).oof, np.eye(4, dtype=np.float32)[said])
        assert task.name == "multiclass"


def table_of():
    files = CompetitionFiles("toy")
    return read_table(files, read_table_facts(files))
