"""A toy competition with teachers and students, built once a process, and ways to look into it."""

import functools
import json
import os
import tempfile
from pathlib import Path

import pandas as pd
from house import make_competition, prepare, stage, write

from pipeline.nets.machine import Machine
from pipeline.scoring.metrics import get_metric
from pipeline.store.artifacts import RunFiles
from pipeline.store.config import load_competition
from pipeline.store.keys import read_table_facts
from pipeline.store.runs import load_run
from pipeline.store.table import read_table
from pipeline.tasks import TASKS
from pipeline.training.job import Job
from pipeline.training.lessons import plan
from pipeline.training.readable import labelled_images
from pipeline.training.which import Which

CONFIGS = {
    "b": 'base = "a"\nseed = 1\npairs = true\n[predict]\ntta = "hflip"\n',
    "blend": 'stage = "ensemble"\nmembers = ["a", "b"]\nmethod = "convex"\n',
    "p": 'stage = "pseudo"\nrun = "blend"\nquota = 0.75\n',
    "s": 'base = "a"\npseudo = "p"\n',
}
STAGES = {"blend": "ensemble", "p": "pseudo"}


@functools.cache
def built():
    return filled(Path(tempfile.mkdtemp(prefix="school")), CONFIGS, STAGES)


def filled(root, configs, stages, extra=""):
    """Make a competition in a folder, and in it run `a` and those of some configs, by the stages named (else train)."""
    before = Path.cwd()
    os.chdir(root)
    try:
        make_competition(root, "multiclass", extra=extra)
        prepare()
        write("a", Path("configs/toy/a.toml").read_text().replace("epochs = 3", "epochs = 2"))
        for name, text in configs.items():
            write(name, text)
        for name in ("a", *configs):
            stage(stages.get(name, "train"), f"toy/{name}")
    finally:
        os.chdir(before)
    return root


def job_of(run, halves=False):
    files, config = RunFiles(run), load_run(run)
    competition = load_competition(files.competition.name)
    table = read_table(files.competition, read_table_facts(files.competition))
    metric = get_metric(competition.metric, TASKS[competition.task])
    return Job(files, config, competition, table, metric, Machine("cpu", "fp32", 1), "fit", "predict", halves)


def learn(run, *held_out, half=None):
    """The course of one model of a run."""
    job = job_of(run, half is not None)
    return job, plan(job, Which(held_out, half), *labelled_images(job))


def labels(run="toy/p"):
    return pd.read_csv(RunFiles(run).pseudo, dtype={"id": str})


def receipt(run):
    return json.loads(RunFiles(run).receipt.read_text())
