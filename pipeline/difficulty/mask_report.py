"""The report on a run with masks: what its maps show of every image, whose masks look wrong, and how that looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.difficulty.difficulty import SUSPECT, TAGS
from pipeline.difficulty.labels import belief
from pipeline.difficulty.masks import MaskTags, assess, look, scores
from pipeline.difficulty.risk import risk
from pipeline.difficulty.sheet import outlined
from pipeline.forecast.mask_survey import Source
from pipeline.masks.decide import decide
from pipeline.masks.maps import Averaged
from pipeline.scoring.features import image_statistics
from pipeline.scoring.mask_choice import from_decision
from pipeline.scoring.mask_shelf import Scene
from pipeline.scoring.mask_variants import Shown, measure
from pipeline.store.artifacts import RunFiles
from pipeline.store.files import Array

if TYPE_CHECKING:  # imports pandas, which a stage with nothing to do must not pay for
    import pandas as pd

    from pipeline.difficulty.known import Case


@dataclass(frozen=True)
class MaskReport:
    """N scored and T test images, tagged; the cross-fitted scores (N,) of the former."""

    case: Case
    scene: Scene
    tags: MaskTags
    score: Array

    @classmethod
    def of(cls, case: Case, easy_error: float, hard_share: float) -> MaskReport:
        """Read the maps of a run and of the runs below it, and tag what they show."""
        files, shelf, table = case.run, case.shelf, case.table
        scene = Scene.of(files, case.competition, table, case.problem.task, case.problem.metric, shelf["maps"])
        maps = scene.maps(files.oof, table.scored)
        settings = {k: from_decision(shelf["decision"], k) for k in case.folds}
        by_row = [settings[k] for k in case.problem.folds.tolist()]
        metric, stats = case.problem.mask_metric, dict[int, Array]()
        for k, setting in settings.items():
            rows = np.flatnonzero(case.problem.folds == k)
            found = measure(maps.part(rows), scene.truth, table.scored[rows], [setting], metric)[:, 0]
            stats |= dict(zip(rows.tolist(), found, strict=True))
        score = scores(case.problem, np.stack([stats[i] for i in range(len(maps))]))
        seen = look(_source(case, scene, maps, [scene.maps(leaf.oof, table.scored) for leaf in case.leaves], 0), by_row)
        tests = [look(_tests(case, scene, k), [setting] * len(table.test)) for k, setting in settings.items()]
        return cls(case, scene, assess(case.problem, score, seen, tests, easy_error, hard_share), score)

    @property
    def metrics(self) -> dict[str, Any]:
        """Return what P(bad) and the tags are worth, how many masks look wrong, and the shares of tags."""
        found, n = self.tags, len(self.score)
        told = risk(self.case.problem, found.p_error[:n], found.bad, belief(found.label_wrong), found.tags[:n])
        suspects, estimated = int((found.label_wrong > 0.5).sum()), float(found.label_wrong.sum())
        told["labels"] = {"suspects": suspects, "estimated": estimated}
        parts = {"train": found.tags[:n], "test": found.tags[n:]}
        told["shares"] = {part: {tag: float((tags == tag).mean()) for tag in TAGS} for part, tags in parts.items()}
        return told

    def difficulty(self) -> pd.DataFrame:
        """Return the report on all images: what of a mask there is to say is empty for test images."""
        import pandas as pd

        case, found = self.case, self.tags
        rest = np.full(len(case.table.test), np.nan)
        frame = pd.DataFrame({"id": case.table.ids[case.rows], "p_label_wrong": np.r_[found.label_wrong, rest]})
        frame["p_error"], frame["tag"], frame["fold"] = found.p_error, found.tags, case.table.folds[case.rows]
        frame["wrong"], frame["score"] = np.r_[found.bad.astype(float), rest], np.r_[self.score, rest]
        return frame.assign(doubt_at_edges=found.edges)

    def review(self) -> pd.DataFrame:
        """Return the scored images for a person to look at: suspects first, the most suspicious first."""
        import pandas as pd

        table, rows, found = self.case.table, self.case.table.scored, self.tags
        frame = pd.DataFrame({"id": table.ids[rows]})
        frame["path"] = [str(self.case.run.competition.data / path) for path in table.paths[rows]]
        frame["score"], frame["p_label_wrong"], frame["tag"] = self.score, found.label_wrong, found.tags[: len(rows)]
        return frame.iloc[np.lexsort((-found.label_wrong, frame["tag"] != SUSPECT))]

    def sheets(self, size: int) -> dict[str, tuple[list[Array], list[list[str]]]]:
        """Return images with outlines and captions: suspects, hard scored images, hard test images, the worst first.

        Given masks are green, predicted ones red, yellow where both run alike.
        """
        n, found, table = len(self.score), self.tags, self.case.table
        out = {}
        for name, tag, worst, first in (
            ("suspects", SUSPECT, found.label_wrong, 0),
            ("hard_train", "hard", found.p_error[:n], 0),
            ("hard_test", "hard", found.p_error[n:], n),
        ):
            rows = np.flatnonzero(found.tags[first : first + len(worst)] == tag)
            rows = rows[np.argsort(-worst[rows], kind="stable")][:size].tolist()
            where, ids = ("test", table.ids[table.test]) if first else ("oof", table.ids[table.scored])
            told = [[f"p {worst[i]:.2f}"] if first else [f"{self.score[i]:.2f} p {worst[i]:.2f}"] for i in rows]
            words = [[str(ids[i]), *lines] for i, lines in zip(rows, told, strict=True)]
            out[name] = [self._drawn(where, i) for i in rows], words
        return out

    def _drawn(self, where: str, i: int) -> Array:
        """Return an image with the outlines of its masks, of several classes together."""
        case, scene, test = self.case, self.scene, where == "test"
        rows = case.table.test if test else case.table.scored
        maps, row = scene.maps(getattr(case.run, where), rows), int(rows[i])
        setting = from_decision(case.shelf["decision"], None if test else int(case.problem.folds[i]))
        height, width = case.table.sizes[row].tolist()
        exclusive = scene.truth.kind == "exclusive"
        said = decide(maps[i], maps.present(i), setting, (height, width), exclusive)
        given = np.zeros_like(said) if test else scene.truth[row]
        classes = slice(int(exclusive) if len(said) > 1 else 0, None)  # of exclusive ones the first is background
        drawn = [np.asarray(mask[classes].any(0)) for mask in (given, said)]
        return outlined(np.asarray(case.images[int(test)][i]), *drawn)


def _source(case: Case, scene: Scene, maps: Shown, members: Sequence[Shown], part: int) -> Source:
    """Return where the images of a part (0: scored, 1: test) are seen; members are told of where there are several."""
    rows = (case.table.scored, case.table.test)[part]
    several = members if len(members) > 1 else []
    statistics = image_statistics(case.images[part])
    exclusive, scored = scene.truth.kind == "exclusive", case.problem.scored_classes
    return Source(maps, several, case.table.sizes[rows], statistics, exclusive, scored)


def _tests(case: Case, scene: Scene, k: int) -> Source:
    """Return where the test images are seen as rows of a fold are: by its models, of several repeats in the mean."""

    def of(run: str, repeats: int) -> Averaged:
        return Averaged([scene.maps(RunFiles(run).fold(k, r).test, case.table.test) for r in range(repeats)])

    members = [of(run, receipt.get("repeats", 1)) for run, receipt in case.members.items()]
    return _source(case, scene, of(case.run.run, case.shelf.get("repeats", 1)), members, 1)
