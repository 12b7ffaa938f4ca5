"""Every file name of the house is spelt here and nowhere else; paths are relative to the repository root."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONFIGS, FOLDS, DATA, CACHE, RUNS, SUBMISSIONS = (
    Path(name) for name in ("configs", "folds", "data", "cache", "runs", "submissions")
)
LEDGER, LEDGER_LOCK = SUBMISSIONS / "ledger.csv", CACHE / ".ledger.lock"


class Within:
    """A file of a fixed name in the `folder` of what it belongs to."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts

    def __get__(self, owner: CompetitionFiles | FoldFiles | RunFiles, kind: type) -> Path:
        """Return its path."""
        return owner.folder.joinpath(*self.parts)


@dataclass(frozen=True)
class CompetitionFiles:
    """The files of one competition."""

    name: str

    # Receipt of the raw data; it lies in the cache because the user's folder is never written.
    data_receipt = Within("data.json")
    table = Within("table.csv")  # table of record
    table_receipt = Within("table.json")  # receipt of the table of record
    # Masks of the labelled rows, one after the other in table order (see `pipeline.masks.truth`).
    masks = Within("masks.npy")
    looks_lock = Within(".looks.lock")  # lock of the looks at the holdout
    images = Within("images")  # folder of decoded images
    features = Within("features")  # folder of features of networks that stay as they are
    lock = Within(".lock")  # lock of the competition's shared files

    @property
    def folder(self) -> Path:
        """Return what is made of the raw data, and may be made again."""
        return CACHE / self.name

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


@dataclass(frozen=True)
class FoldFiles:
    """The files of one model of a run: repeat 0 lies in `fold<k>/`, repeat r in `repeat<r>/fold<k>/`."""

    folder: Path

    model = Within("model.safetensors")  # final weights; their header carries the fit hash
    last = Within("last.pt")  # checkpoint to resume from
    log = Within("log.jsonl")  # step and epoch log
    oof = Within("oof.npy")  # predictions of the rows this model never saw
    test = Within("test.npy")  # this model's test predictions
    holdout = Within("holdout.npy")  # this model's predictions of the holdout, where there is one
    # Table positions (N, int32) of every row this model trained on: what `audit` proves levels from.
    rows = Within("rows.npy")
    # This model's predictions of all scored rows (N P); it trained on those outside its fold.
    train = Within("train.npy")
    # Pooled features (N F, float16): the scored rows, then the test rows; axes of this model alone.
    embeddings = Within("emb.npy")
    # Sd over TTA views (N, float32), mean over columns: the scored rows, then the test rows.
    spread = Within("spread.npy")
    # What was seen of each training row over the epochs (see `training.watch`); NaN for other rows.
    epochs = Within("epochs.npy")
    # This model's predictions of the patches of all scored rows (N V P), one view of each.
    patches = Within("patches.npy")
    test_patches = Within("patches-test.npy")  # the same of the test rows
    holdout_patches = Within("patches-holdout.npy")  # the same of the holdout, where there is one
    receipt = Within("fold.json")  # model's receipt, written last

    def epoch(self, number: int) -> Path:
        """Return the weights kept after an epoch (select = "best" only)."""
        return self.folder / f"epoch{number}.safetensors"

    def half(self, number: int) -> FoldFiles:
        """Return the student that trained on one half of the pseudo-labels."""
        return FoldFiles(self.folder / f"half{number}")

    @property
    def for_test(self) -> FoldFiles:
        """Return the model of the same fold that was adapted to the test images."""
        return FoldFiles(self.folder / "for-test")


@dataclass(frozen=True)
class RunFiles:
    """The shelf of a run id `<competition>/<name>`."""

    run: str

    oof = Within("oof.npy")  # out-of-fold predictions: the rows with fold >= 0 in table order
    test = Within("test.npy")  # deployed test predictions
    holdout = Within("holdout.npy")  # deployed predictions of the holdout, where there is one
    receipt = Within("cv.json")  # run's receipt with its scores, written last
    state = Within("state.json")  # what must not change while a run is resumed: its fold map and the machine's choices
    log = Within("run.log")  # log in words
    lock = Within(".lock")  # lock of the shelf
    submit_lock = Within(".submit.lock")  # lock of the submission
    # Pseudo-labels: id, repeat, fold, half, weight, then a prediction's columns t0, t1, ...
    pseudo = Within("pseudo.csv")
    difficulty = Within("difficulty.csv")  # difficulty report: id, p_label_wrong (train rows), p_error, tag, parts
    # Tags for training: id, repeat, fold, weight, tag, ...; fold k's from models blind to fold k.
    difficulty_train = Within("difficulty_train.csv")
    review = Within("review.csv")  # rows that a person should look at first
    scores = Within("scores.csv")  # predicted score of every row
    postprocess = Within("postprocess.json")  # what post-processing was tried, what it was worth and what was adopted
    # Rows of the table that are tiles side by side (M 4: one, another, the step down and right).
    links = Within("links.npy")
    # What the metric judges of a trial's out-of-fold predictions: labels, values, counts of masks.
    judged = Within("judged.npy")
    trials = Within("trials.csv")  # table of what was tried
    forest = Within("forest.svg")  # forest plot of an ablation
    journal = Within("journal.log")  # journal of a search, as Optuna keeps it
    check_page = Within("check", "index.html")  # page of what was looked at before training
    check_sheet = Within("check", "seen.png")  # contact sheet of what the model sees, beside that page
    check_facts = Within("check", "check.json")  # verdicts of that page, for a program

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

    def pseudo_maps(self, repeat: int, fold: int) -> Path:
        """Return the soft masks (`masks.maps`, no further maps) of the rows that name a model, in their order."""
        return self.folder / f"pseudo{repeat}-{fold}.npy"

    @property
    def pseudo_files(self) -> list[Path]:
        """Return all files that pseudo-labels are in."""
        return [self.pseudo, *sorted(self.folder.glob("pseudo*-*.npy"))]

    def sheet(self, name: str) -> Path:
        """Return a contact sheet."""
        return self.folder / f"{name}.png"

    def trial(self, name: str, place: str) -> RunFiles:
        """Return the shelf of a trial: of a variant or setting, at a place of its own, `s<seed>`."""
        return RunFiles(f"{self.run}/{name}/{place}")

    @property
    def submission(self) -> Path:
        """Return the file for Kaggle."""
        return SUBMISSIONS / f"{self.run}.csv"

    @property
    def submission_receipt(self) -> Path:
        """Return what the file for Kaggle rests on."""
        return SUBMISSIONS / f"{self.run}.json"
