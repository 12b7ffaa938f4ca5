"""Our folds against iterative-stratification and scikit-learn: CPU time, label-distribution error, worst label, fold sizes."""

import argparse
import os
import platform
import statistics
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from sklearn.model_selection import StratifiedGroupKFold

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.scoring.split import assign

FOLDS = 5


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
    return (
        odds[np.isfinite(odds)].mean(),
        shares,
        np.abs(counts - total / FOLDS).max(),
        np.abs(size - size.mean()).max(),
    )


# name: (labels, groups or none, peer, its name, what is wanted: times as fast, times the error at most)
CASES = {
    "labels 200k x 28, power law": (lambda n, s: (power_law(n, 28, s), None), 200_000, iterstrat, 30, 1.15),
    "one-hot 36.5k x 1108": (lambda n, s: (one_hot(n, 1108, s), None), 36_515, iterstrat, 50, 1.0),
    "labels 20k x 1103": (lambda n, s: (many_labels(n, 1103, s), None), 20_000, iterstrat, 50, 1.0),
    "labels 100k x 100, ten a row": (lambda n, s: (dense(n, 100, s), None), 100_000, iterstrat, 1, 0.1),
    "labels 31k x 28": (lambda n, s: (power_law(n, 28, s), None), 31_000, iterstrat, None, 1.15),
    "groups 1M rows, 50k groups": (
        lambda n, s: (classes(n, unit := groups(n, n // 20, s), s), unit), 1_000_000, stratified_group, 20, 1.0,
    ),
    "groups 20k rows, 1k groups": (
        lambda n, s: (classes(n, unit := groups(n, n // 20, s), s), unit), 20_000, stratified_group, None, 1.0,
    ),
    "labels + groups 31k x 28, 3k": (
        lambda n, s: (power_law(n, 28, s), groups(n, n // 10, s)), 31_000, stratified_group, None, 1.0,
    ),
}  # fmt: skip
SLOW = ("one-hot 36.5k x 1108", "labels 20k x 1103")


def compare(make, rows, peer, seeds):
    """Return (seconds, error, share error, worst label, worst size) of each seed, ours and the peer's, alternating."""
    found = {"ours": [], "peer": []}
    for seed in seeds:
        labels, unit = make(rows, seed)
        for who, split in (("ours", ours), ("peer", peer)):
            start = time.process_time()
            folds = split(labels, unit, seed)
            found[who].append((time.process_time() - start, *judge(labels, folds)))
    return {who: np.array(values) for who, values in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--slow-seeds", type=int, default=2, help="seeds where the peer takes 10 s and more")
    parser.add_argument("--size", type=float, default=1.0, help="rows, as a share of those named")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    cpu = next((s[13:] for s in Path("/proc/cpuinfo").read_text().split("\n") if s[:10] == "model name"), "unknown CPU")
    print(f"K={FOLDS}; medians of {args.seeds} seeds ({args.slow_seeds} for {', '.join(SLOW)}), size {args.size}")
    print(
        f"{cpu}, {len(os.sched_getaffinity(0))} cores; Python {platform.python_version()}, numpy {np.__version__}, ",
        end="",
    )
    print(f"iterative-stratification {version('iterative-stratification')}, scikit-learn {version('scikit-learn')}\n")
    columns = ("CPU seconds", "label dist.", "sd of shares", "label off", "size off")
    print(f"{'case':30} {'':17}" + " ".join(f"{c:>12}" for c in columns))
    ours(*CASES["labels 31k x 28"][0](1000, 0), 0)
    iterstrat(*CASES["labels 31k x 28"][0](1000, 0), 0)  # imports are nobody's time
    for name, (make, rows, peer, faster, close) in CASES.items():
        found = compare(make, int(rows * args.size), peer, range(args.slow_seeds if name in SLOW else args.seeds))
        for who, title in (("ours", "ours"), ("peer", peer.__name__)):
            middle = [statistics.median(column) for column in found[who].T]
            print(
                f"{name if who == 'ours' else '':30} {title:17}" + " ".join(f"{value:12.3g}" for value in middle),
                flush=True,
            )
        ratio = statistics.median(found["peer"][:, 0] / found["ours"][:, 0])
        # Of groups, scikit-learn's own measure.
        measure = 2 if peer is stratified_group else 1
        error = statistics.median(found["ours"][:, measure]) / max(statistics.median(found["peer"][:, measure]), 1e-12)
        met = "" if faster is None else f" (>= {faster}x: {'met' if ratio >= faster else 'short'})"
        print(
            f"{'':30} {ratio:.1f}x as fast{met}, {error:.3g} x the error (<= {close}: {'met' if error <= close else 'short'})\n"
        )


if __name__ == "__main__":
    main()
