"""Where a killed training continues, and what its log holds then; see also `test_engine.test_resume_is_the_same`."""

import json
import os

import pytest
import torch
from test_engine import Killed, killer, same, steps
from torch import nn

from pipeline.store.errors import UserError
from pipeline.training.checkpoint import resume, save, write_log


def test_the_log_is_cut_back_to_the_checkpoint(tmp_path):
    parts, path, lines = {"network": nn.Linear(2, 1)}, tmp_path / "last.pt", tmp_path / "log.jsonl"
    assert resume(path, "k", parts, lines) == 0
    for epoch in range(2):
        write_log(lines, {"epoch": epoch, "step": 2 * epoch + 2}, [0.5, 0.25])
        if epoch == 0:
            save(path, "k", epoch, parts)
            kept, drawn = lines.read_text(), torch.rand(3)
    with open(lines, "a") as handle:
        handle.write('{"step": 99, "ep')
    other = {"network": nn.Linear(2, 1)}
    assert resume(path, "k", other, lines) == 1
    assert lines.read_text() == kept
    assert [json.loads(line).get("loss") for line in kept.splitlines()] == [0.5, 0.25, None]
    assert torch.equal(other["network"].weight, parts["network"].weight)
    assert torch.equal(torch.rand(3), drawn), "chance goes on where it stood"


def test_checkpoint_of_another_fit_is_ignored(run_fit, toy, monkeypatch):
    monkeypatch.setenv("PODIUM_CHECKPOINT_SECONDS", "0")
    fresh = run_fit(toy(), "fresh", lr=0.02)
    with pytest.raises(Killed):
        run_fit(toy(), "stale", record=killer(1))
    other = run_fit(toy(), "stale", lr=0.02, key="another")
    assert same(fresh, other)
    assert steps(fresh.log) == steps(other.log)


def test_full_disk_at_a_checkpoint(run_fit, toy, monkeypatch, tmp_path):
    monkeypatch.setenv("PODIUM_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr("pipeline.store.files.os.getpid", lambda: 7)
    (tmp_path / "run").mkdir()
    os.symlink("/dev/full", tmp_path / "run" / ".last.pt.7.tmp")
    with pytest.raises(UserError, match="disk full"):
        run_fit(toy())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"log.jsonl"}
