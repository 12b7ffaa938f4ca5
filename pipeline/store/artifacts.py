"""Every file name of the house is spelt here and nowhere else; paths are relative to the repository root."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONFIGS, FOLDS, DATA, CACHE, RUNS, SUBMISSIONS = (
    Path(name) for name in ("configs", "folds", "data", "cache", "runs", "submissions")
)
LEDGER, LEDGER_LOCK = SUBMISSIONS / "ledger.csv", CACHE / ".ledger.lock"


@dataclass(frozen=True)
class CompetitionFiles:
    """The files of one competition."""

    name: str

    @property
    def config(self) -> Path:
        """Return the competition contract."""
        return CONFIGS / self.name / "competition.toml"

    @property
    def data(self) -> Path:
        """Return the folder of raw data (or a link to it)."""
        return DATA / self.name

    @property
    def solution(self) -> Path:
        """Return the targets of the test rows, where they are at hand: for scoring submissions only."""
        return self.data / "solution.csv"

    @property
    def data_receipt(self) -> Path:
        """Return the receipt of the raw data; it lies in the cache because the user's folder is never written."""
        return CACHE / self.name / "data.json"

    @property
    def table(self) -> Path:
        """Return the table of record."""
        return CACHE / self.name / "table.csv"

    @property
    def table_receipt(self) -> Path:
        """Return the receipt of the table of record."""
        return CACHE / self.name / "table.json"

    @property
    def masks(self) -> Path:
        """Return the masks of the labelled rows, one after the other in table order (see `pipeline.masks.truth`)."""
        return CACHE / self.name / "masks.npy"

    @property
    def folds(self) -> Path:
        """Return the committed split."""
        return FOLDS / f"{self.name}.csv"

    @property
    def folds_receipt(self) -> Path:
        """Return how the split was made: method, seed, hashes, classes, balance table, checks."""
        return FOLDS / f"{self.name}.json"

    @property
    def looks(self) -> Path:
        """Return the looks at the holdout, committed."""
        return FOLDS / f"{self.name}.looks.csv"

    @property
    def looks_lock(self) -> Path:
        """Return the lock of the looks at the holdout."""
        return CACHE / self.name / ".looks.lock"

    @property
    def images(self) -> Path:
        """Return the folder of decoded images."""
        return CACHE / self.name / "images"

    @property
    def features(self) -> Path:
        """Return the folder of features of networks that stay as they are."""
        return CACHE / self.name / "features"

    @property
    def lock(self) -> Path:
        """Return the lock of the competition's shared files."""
        return CACHE / self.name / ".lock"


@dataclass(frozen=True)
class FoldFiles:
    """The files of one model of a run: repeat 0 lies in `fold<k>/`, repeat r in `repeat<r>/fold<k>/`."""

    folder: Path

    @property
    def model(self) -> Path:
        """Return the final weights; their header carries the fit hash."""
        return self.folder / "model.safetensors"

    def epoch(self, number: int) -> Path:
        """Return the weights kept after an epoch (select = "best" only)."""
        return self.folder / f"epoch{number}.safetensors"

    @property
    def last(self) -> Path:
        """Return the checkpoint to resume from."""
        return self.folder / "last.pt"

    @property
    def log(self) -> Path:
        """Return the step and epoch log."""
        return self.folder / "log.jsonl"

    @property
    def oof(self) -> Path:
        """Return predictions of the rows this model never saw."""
        return self.folder / "oof.npy"

    @property
    def test(self) -> Path:
        """Return this model's test predictions."""
        return self.folder / "test.npy"

    @property
    def holdout(self) -> Path:
        """Return this model's predictions of the holdout, where there is one."""
        return self.folder / "holdout.npy"

    @property
    def rows(self) -> Path:
        """Return the table positions (N, int32) of every row this model trained on: what `audit` proves levels from."""
        return self.folder / "rows.npy"

    @property
    def train(self) -> Path:
        """Return this model's predictions of all scored rows (N P); it trained on those outside its fold."""
        return self.folder / "train.npy"

    @property
    def embeddings(self) -> Path:
        """Return pooled features (N F, float16): the scored rows, then the test rows; axes of this model alone."""
        return self.folder / "emb.npy"

    @property
    def spread(self) -> Path:
        """Return the sd over TTA views (N, float32), mean over columns: the scored rows, then the test rows."""
        return self.folder / "spread.npy"

    @property
    def epochs(self) -> Path:
        """Return what was seen of each training row over the epochs (see `training.watch`); NaN for other rows."""
        return self.folder / "epochs.npy"

    @property
    def patches(self) -> Path:
        """Return this model's predictions of the patches of all scored rows (N V P), one view of each."""
        return self.folder / "patches.npy"

    @property
    def test_patches(self) -> Path:
        """Return the same of the test rows."""
        return self.folder / "patches-test.npy"

    @property
    def holdout_patches(self) -> Path:
        """Return the same of the holdout, where there is one."""
        return self.folder / "patches-holdout.npy"

    def half(self, number: int) -> FoldFiles:
        """Return the student that trained on one half of the pseudo-labels."""
        return FoldFiles(self.folder / f"half{number}")

    @property
    def for_test(self) -> FoldFiles:
        """Return the model of the same fold that was adapted to the test images."""
        return FoldFiles(self.folder / "for-test")

    @property
    def receipt(self) -> Path:
        """Return the model's receipt, written last."""
        return self.folder / "fold.json"


@dataclass(frozen=True)
class RunFiles:
    """The shelf of a run id `<competition>/<name>`."""

    run: str

    @property
    def competition(self) -> CompetitionFiles:
        """Return the files of the run's competition."""
        return CompetitionFiles(self.run.split("/")[0])

    @property
    def config(self) -> Path:
        """Return the run's config."""
        return CONFIGS / f"{self.run}.toml"

    @property
    def folder(self) -> Path:
        """Return the shelf."""
        return RUNS / self.run

    @property
    def oof(self) -> Path:
        """Return out-of-fold predictions: the rows with fold >= 0 in table order."""
        return self.folder / "oof.npy"

    @property
    def test(self) -> Path:
        """Return the deployed test predictions."""
        return self.folder / "test.npy"

    @property
    def holdout(self) -> Path:
        """Return the deployed predictions of the holdout, where there is one."""
        return self.folder / "holdout.npy"

    @property
    def receipt(self) -> Path:
        """Return the run's receipt with its scores, written last."""
        return self.folder / "cv.json"

    @property
    def state(self) -> Path:
        """Return what must not change while a run is resumed: its fold map and the machine's choices."""
        return self.folder / "state.json"

    @property
    def log(self) -> Path:
        """Return the log in words."""
        return self.folder / "run.log"

    @property
    def lock(self) -> Path:
        """Return the lock of the shelf."""
        return self.folder / ".lock"

    @property
    def submit_lock(self) -> Path:
        """Return the lock of the submission."""
        return self.folder / ".submit.lock"

    def fold(self, fold: int, repeat: int = 0) -> FoldFiles:
        """Return the files of one model."""
        return FoldFiles(self._repeat(repeat) / f"fold{fold}")

    def pair(self, one: int, other: int, repeat: int = 0) -> FoldFiles:
        """Return the files of the model that saw neither of two folds."""
        return FoldFiles(self._repeat(repeat) / f"pair{min(one, other)}-{max(one, other)}")

    def _repeat(self, repeat: int) -> Path:
        return self.folder / f"repeat{repeat}" if repeat else self.folder

    def repeat_oof(self, repeat: int) -> Path:
        """Return the out-of-fold maps of one repeat, kept while their mean is made."""
        return self.folder / f".oof{repeat}.npy"

    def whole(self, name: str) -> FoldFiles:
        """Return the files of a model that trained on all labelled rows."""
        return FoldFiles(self.folder / f"all-{name}")

    def fold_receipts(self) -> list[Path]:
        """Return the receipts of the models that are done."""
        return sorted(self.folder.glob("**/fold.json"))

    @property
    def pseudo(self) -> Path:
        """Return the pseudo-labels: id, repeat, fold, half, weight, then a prediction's columns t0, t1, ..."""
        return self.folder / "pseudo.csv"

    def pseudo_maps(self, repeat: int, fold: int) -> Path:
        """Return the soft masks (`masks.maps`, no further maps) of the rows that name a model, in their order."""
        return self.folder / f"pseudo{repeat}-{fold}.npy"

    @property
    def pseudo_files(self) -> list[Path]:
        """Return all files that pseudo-labels are in."""
        return [self.pseudo, *sorted(self.folder.glob("pseudo*-*.npy"))]

    @property
    def difficulty(self) -> Path:
        """Return the difficulty report: id, p_label_wrong (train rows), p_error, tag, parts."""
        return self.folder / "difficulty.csv"

    @property
    def difficulty_train(self) -> Path:
        """Return the tags for training: id, repeat, fold, weight, tag, ...; fold k's from models blind to fold k."""
        return self.folder / "difficulty_train.csv"

    @property
    def review(self) -> Path:
        """Return the rows that a person should look at first."""
        return self.folder / "review.csv"

    def sheet(self, name: str) -> Path:
        """Return a contact sheet."""
        return self.folder / f"{name}.png"

    @property
    def scores(self) -> Path:
        """Return the predicted score of every row."""
        return self.folder / "scores.csv"

    @property
    def postprocess(self) -> Path:
        """Return what post-processing was tried, what it was worth and what was adopted."""
        return self.folder / "postprocess.json"

    @property
    def links(self) -> Path:
        """Return the rows of the table that are tiles side by side (M 4: one, another, the step down and right)."""
        return self.folder / "links.npy"

    def trial(self, name: str, place: str) -> RunFiles:
        """Return the shelf of a trial: of a variant or setting, at a place of its own, `s<seed>`."""
        return RunFiles(f"{self.run}/{name}/{place}")

    @property
    def judged(self) -> Path:
        """Return what the metric judges of a trial's out-of-fold predictions: labels, values, counts of masks."""
        return self.folder / "judged.npy"

    @property
    def trials(self) -> Path:
        """Return the table of what was tried."""
        return self.folder / "trials.csv"

    @property
    def forest(self) -> Path:
        """Return the forest plot of an ablation."""
        return self.folder / "forest.svg"

    @property
    def journal(self) -> Path:
        """Return the journal of a search, as Optuna keeps it."""
        return self.folder / "journal.log"

    @property
    def check_page(self) -> Path:
        """Return the page of what was looked at before training."""
        return self.folder / "check" / "index.html"

    @property
    def check_sheet(self) -> Path:
        """Return the contact sheet of what the model sees, beside that page."""
        return self.folder / "check" / "seen.png"

    @property
    def check_facts(self) -> Path:
        """Return the verdicts of that page, for a program."""
        return self.folder / "check" / "check.json"

    @property
    def submission(self) -> Path:
        """Return the file for Kaggle."""
        return SUBMISSIONS / f"{self.run}.csv"

    @property
    def submission_receipt(self) -> Path:
        """Return what the file for Kaggle rests on."""
        return SUBMISSIONS / f"{self.run}.json"
