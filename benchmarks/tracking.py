"""A step told: ours, to a file and once an epoch to W&B, against a `wandb.log` for every step; both offline.

An epoch has 100 steps. Our side is all that is done of it: the losses of an epoch fetched, written as a line of JSON
each, the epoch's own line, and its point in W&B.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from bench import Row, main, race

STEPS, EPOCHS = 100, 20


def rows() -> Iterator[Row]:
    from pipeline.store.artifacts import RunFiles
    from pipeline.store.tracking import track
    from pipeline.training.checkpoint import write_log

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["WANDB_MODE"] = "offline"
        losses = list(torch.rand(STEPS))
        with track(RunFiles("race/run"), "train", {}, "key") as tracker:

            def ours() -> None:
                for epoch in range(EPOCHS):
                    numbers = torch.stack(losses).tolist()
                    entry = {"epoch": epoch, "step": (epoch + 1) * STEPS, "train_loss": sum(numbers) / STEPS}
                    write_log(Path("log.jsonl"), entry, numbers)
                    tracker.log(entry)

            def theirs() -> None:
                for epoch in range(EPOCHS):
                    for loss in losses:
                        tracker.run.log({"epoch": epoch, "loss": loss.item()})

            row, *_ = race("tracking a step", "wandb.log a step", ours, theirs, 1, clock=time.perf_counter)
        os.chdir("/")
    mine, his = (1e6 * seconds / STEPS / EPOCHS for seconds in (row.ours, row.theirs))
    note = f"ratio = 10 us / ours; {row.ratio:.0f}x as fast as the peer; {STEPS} steps an epoch"
    yield Row(row.part, row.peer, mine, his, 10 / mine, 1, row.n, note, unit="us")


if __name__ == "__main__":
    main(rows)
