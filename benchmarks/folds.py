"""Our folds against iterative-stratification and scikit-learn: time, and how even they are."""

import time
import warnings

import numpy as np
from bench import main, row_of
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from sklearn.model_selection import StratifiedGroupKFold

from pipeline.scoring.split import assign

FOLDS, SEEDS = 5, 5


def power_law(rows, width, seed):
    """Labels of falling rates, 1.7 a row (as in the Human Protein Atlas)."""
    rates = np.arange(1, width + 1) ** -1.3
    return np.random.default_rng(seed).random((rows, width)) < np.minimum(1.7 * rates / rates.sum(), 0.6)


def one_hot(rows, width, seed):
    """One of many classes a row (as in Recursion)."""
    labels = np.zeros((rows, width), bool)
    labels[np.arange(rows), np.random.default_rng(seed).integers(0, width, rows)] = True
    return labels


def many_labels(rows, width, seed):
    """One to five of many labels a row, some of them very rare (as in iMet)."""
    rng, rates = np.random.default_rng(seed), 1 / np.arange(1, width + 1)
    drawn, count = rng.choice(width, (rows, 5), p=rates / rates.sum()), rng.integers(1, 6, rows)
    labels = np.zeros((rows, width), bool)
    for j in range(5):
        labels[np.flatnonzero(count > j), drawn[count > j, j]] = True
    return labels


def dense(rows, width, seed):
    """Ten labels a row."""
    rng = np.random.default_rng(seed)
    rates = rng.random(width) + 0.2
    return rng.random((rows, width)) < 10 * rates / rates.sum()


def groups(rows, count, seed):
    """Groups of unequal size."""
    rng = np.random.default_rng(seed)
    size = rng.lognormal(0, 0.8, count)
    return np.unique(rng.choice(count, rows, p=size / size.sum()), return_inverse=True)[1]


def classes(rows, unit, seed, count=5):
    """Unequal classes; two thirds of a group's rows are of one class."""
    rng, share = np.random.default_rng(seed + 1), 2.0 ** -np.arange(count)
    share /= share.sum()
    own = rng.choice(count, unit.max() + 1, p=share)[unit]
    return np.eye(count, dtype=bool)[np.where(rng.random(rows) < 0.67, own, rng.choice(count, rows, p=share))]


def ours(labels, unit, seed):
    return assign("multilabel", labels, np.arange(len(labels)) if unit is None else unit, FOLDS, seed)


def iterstrat(labels, unit, seed):
    return collect(MultilabelStratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(labels, labels), len(labels))


def stratified_group(labels, unit, seed):
    """Stratify by class; of several labels a row, which scikit-learn cannot do, by the rarest."""
    rank = labels.sum(0).argsort().argsort()
    y = np.where(labels, rank, len(rank)).min(1)
    return collect(StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(y, y, unit), len(y))


def collect(splits, rows):
    folds = np.empty(rows, np.int64)
    for k, (_, held_out) in enumerate(splits):
        folds[held_out] = k
    return folds


def judge(labels, folds):
    """Return the label-distribution error, the mean sd of a label's shares, the worst label and size, in rows off."""
    counts = np.array([labels[folds == k].sum(0) for k in range(FOLDS)], float)
    total, size = counts.sum(0), np.bincount(folds, minlength=FOLDS)[:, None]
    used = (total > 0) & (total < len(labels))
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = np.abs(counts / (size - counts) - total / (len(labels) - total))[:, used]
    shares = (counts[:, used] / total[used]).std(0).mean()
    off = np.abs(counts - total / FOLDS).max(), np.abs(size - size.mean()).max()
    return (odds[np.isfinite(odds)].mean(), shares, *off)


def grouped(labels_of):
    def make(rows, seed):
        unit = groups(rows, rows // (20 if labels_of is classes else 10), seed)
        return (classes(rows, unit, seed) if labels_of is classes else power_law(rows, 28, seed)), unit

    return make


def alone(labels_of, width):
    return lambda rows, seed: (labels_of(rows, width, seed), None)


# What is made, rows, the peer; what is wanted: times as fast, times the error, rows that the worst label is off.
ITERSTRAT, GROUP = "iterative-stratification", "scikit-learn StratifiedGroupKFold"
CASES = {
    "folds, labels 200k x 28, power law": (alone(power_law, 28), 200_000, ITERSTRAT, 30, 1.15, 1),
    "folds, one-hot 36.5k x 1108": (alone(one_hot, 1108), 36_515, ITERSTRAT, 50, 1.0, np.inf),
    "folds, labels 20k x 1103": (alone(many_labels, 1103), 20_000, ITERSTRAT, 50, 1.0, np.inf),
    "folds, labels 100k x 100, ten a row": (alone(dense, 100), 100_000, ITERSTRAT, 1, 0.1, np.inf),
    "folds, 1M rows in 50k groups": (grouped(classes), 1_000_000, GROUP, 20, 1.0, np.inf),
    "folds, labels 31k x 28 in 3k groups": (grouped(power_law), 31_000, GROUP + " by the rarest label", 1, 1.0, np.inf),
}


def run(name):
    """Return the row of a case: medians over seeds of time, error, worst label and worst size of both, in turns."""
    make, rows, peer, faster, close, worst = CASES[name]
    theirs, times, found = iterstrat if peer == ITERSTRAT else stratified_group, [], []
    for seed in range(SEEDS):
        labels, unit = make(rows, seed)
        seconds, judged = [], []
        for split in (ours, theirs):
            start = time.perf_counter()
            folds = split(labels, unit, seed)
            seconds.append(time.perf_counter() - start)
            judged.append(judge(labels, folds))
        times.append(seconds)
        found.append(judged)
    (ld, sd, label, size), (ld_, sd_, label_, size_) = np.median(found, 0)
    mine, his, measure = (sd, sd_, "sd of shares") if peer != ITERSTRAT else (ld, ld_, "label-distribution error")
    times_error = mine / max(his, 1e-12)
    row = row_of(name, peer, times, faster)
    good = times_error <= close + 1e-9 and label < worst and (unit is not None or size < 1)
    note = f"K = {FOLDS}, {SEEDS} seeds: {measure} {times_error:.3g} of the peer's, wanted <= {close:g}; worst label"
    note += f" {label:.3g} rows off, the peer's {label_:.3g}; worst fold size {size:.3g}, {size_:.3g}"
    return row, good, note


def rows():
    from dataclasses import replace

    warnings.simplefilter("ignore")
    for split in (ours, iterstrat):
        split(power_law(1000, 28, 0), None, 0)  # imports are nobody's time
    for name in CASES:
        row, good, note = run(name)
        yield replace(row, good=bool(good), note=note)


if __name__ == "__main__":
    main(rows)
