"""Which model of a run: what it never trains on, where its files lie, its seed."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.store.artifacts import FoldFiles, RunFiles
from pipeline.store.files import digest


@dataclass(frozen=True)
class Which:
    """One model of a run: the folds it never trains on (two for a pair), its half of the pseudo-labels, its repeat.

    One that trains on all labelled rows has a name instead, `whole`. `target` says what a model is adapted to that
    learns from images without labels: those of its fold or of the test.
    """

    held_out: tuple[int, ...]
    half: int | None = None
    repeat: int = 0
    whole: str | None = None
    target: str = "fold"

    def files(self, run: RunFiles) -> FoldFiles:
        """Return its files."""
        if self.whole is not None:
            return run.whole(self.whole)
        first, last, r = self.held_out[0], self.held_out[-1], self.repeat
        shelf = run.fold(first, r) if first == last else run.pair(first, last, r)
        shelf = shelf if self.half is None else shelf.half(self.half)
        return shelf.for_test if self.target == "test" else shelf

    @property
    def title(self) -> str:
        """Return its name for a person."""
        if self.whole:
            return f"all rows, {self.whole}"
        name = f"repeat {self.repeat} " if self.repeat else ""
        name += "fold " + "-".join(map(str, self.held_out))
        name = name if self.half is None else f"{name} half {self.half}"
        return f"{name} for test" if self.target == "test" else name

    def seed(self, seed: int) -> int:
        """Return its own seed."""
        more = [self.whole] if self.whole else [] if self.half is None else [f"half{self.half}"]
        more += [f"repeat{self.repeat}"] if self.repeat else []
        return int(digest(str(seed), *map(str, self.held_out), *more)[:8], 16)
