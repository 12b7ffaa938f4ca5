"""What is asked for: the target columns, the task, a metric that goes with it, and what a submission holds."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pandas as pd

from pipeline.look.words import Finding
from pipeline.store.errors import UserError, listed

TARGETS = re.compile(r"target|label|class|y|diagnosis|category|species|grade|level|severity", re.I)
GRADES = re.compile(r"diagnos|grade|level|sever|score|rating|stage|isup|kellgren|\bkl\b|rank|quality", re.I)
NUMBERS_OF_CLASSES = re.compile(r"label|class|category|species|type|_id$|^id", re.I)
# Where these words stand second in the alphabet, they are put first: a probability is that of the second class.
NEGATIVE = {"normal", "healthy", "negative", "no", "none", "benign", "false", "absent", "clean", "ok", "good", "neg"}


def find_target(train: pd.DataFrame, sample: pd.DataFrame, id_name: str) -> Finding:
    """Return the target column, or columns: those the sample asks for, or the one whose values the sample's are."""
    wanted = [str(c) for c in sample.columns if c != id_name]
    free = [str(c) for c in train.columns if c != id_name and not str(c).startswith("Unnamed: ")]
    if not wanted or not free:
        where = "the sample submission" if not wanted else "the train table"
        raise UserError(f"{where} has no column beside {id_name!r}: there is no target")
    if set(wanted) <= set(free):
        value = wanted if len(wanted) > 1 else wanted[0]
        return Finding("target", value, f"the sample submission asks for {listed(wanted)}, which the train table has")
    if len(wanted) > 1:
        holds = [c for c in free if set(train[c]) <= set(wanted)]
        if not holds:
            raise UserError(
                f"the sample submission asks for {listed(wanted)}: neither columns of the train table ({listed(free)}) "
                f"nor the values of one of them"
            )
        return Finding("target", holds[0], f"the values of {holds[0]!r} are the columns of the sample: one a class")
    ones = [c for c in free if set(train[c].str.strip()) <= {"0", "1", "0.0", "1.0"}]
    if len(ones) > 2 and len(ones) == len(free):
        return Finding("target", ones, f"{len(ones)} columns hold only 0 and 1: one a class", False)
    alike = [c for c in free if set(sample[wanted[0]]) <= set(train[c])]
    named = [c for c in free if TARGETS.fullmatch(c)]
    best = (alike or named or free)[0]
    words = f"the sample submission asks for {wanted[0]!r}, which the train table lacks; of {listed(free)} the nearest"
    return Finding("target", best, words, len(free) == 1)


def find_task(train: pd.DataFrame, sample: pd.DataFrame, target: str | list[str], id_name: str) -> list[Finding]:
    """Return task, metric, separator and classes as far as they must be given."""
    asked = [str(c) for c in sample.columns if c != id_name]
    given = np.unique(sample[asked].to_numpy(str))
    floats = any(re.fullmatch(r"-?\d*\.\d*(e-?\d+)?", cell.strip()) for cell in given.tolist())
    if isinstance(target, list):
        return _several(train, sample, target, id_name) or _columns(train[target], target, len(asked) > 1)
    cells = train[target].str.strip()
    full = cells[cells != ""]
    if full.empty:
        raise UserError(f"the train table has no value in column {target!r}")
    if full.str.fullmatch(r"-?\d+,\d+").all():
        raise UserError(f"column {target!r} holds decimal commas ({full.iloc[0]!r}): write 0.5, not 0,5")
    separator = find_separator(cells)
    if separator is not None:
        return _joined(cells, separator, target, given.tolist())
    values = pd.to_numeric(full, errors="coerce").to_numpy(float)
    if np.isfinite(values).all():
        return _numbers(target, values, floats, len(asked) > 1)
    return _names(target, full, floats, len(asked) > 1)


def find_separator(cells: pd.Series) -> str | None:
    """Return what joins labels in one cell: '|', ';', ',' or ' '; None where a cell is one label.

    Class names may hold a space or a comma. Labels are joined where the parts are fewer than the different cells, and
    half of them also stand alone ("Fat Hen" and "Sugar beet" are 4 parts in 2 cells, and none stands alone).
    """
    whole = {cell for cell in cells if cell}
    for sign in "|;, ":
        parts = {part.strip() for cell in whole for part in cell.split(sign) if part.strip()}
        if not any(sign in cell for cell in whole):
            continue
        alone = len(parts & whole) >= len(parts) / 2
        if sign == "|" or (alone and len(parts) < len(whole)):
            return sign
    return None


def _several(train: pd.DataFrame, sample: pd.DataFrame, target: list[str], id_name: str) -> list[Finding]:
    """Return a task for each target column, [] where all hold numbers of one kind: 0 and 1, shares of 1, or others."""
    values = train[target].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    marks = np.isin(values, (0, 1)).all(0)
    if np.isfinite(values).all() and (marks.all() or not marks.any() or np.allclose(values.sum(1), 1)):
        return []
    parts, words = [], []
    for name in target:
        found = find_task(train, sample[[id_name, name]], name, id_name)
        parts.append({"target": name} | {f.key: f.value for f in found if f.value is not None})
        words.append(found[0].words)
    more = "each may have weight (of its loss) and share (of its metric), and a table [[targets]] of its own"
    return [
        Finding("task", "several", f"{len(target)} target columns of different kinds"),
        Finding("targets", parts, f"{'; '.join(words)}; {more}", False),
    ]


def _columns(table: pd.DataFrame, target: list[str], wide: bool) -> list[Finding]:
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not np.isin(values, (0, 1)).all():
        words = f"{len(target)} columns of numbers"
        if np.allclose(values.sum(1), 1) and (values >= 0).all():
            words += "; each row sums to 1, so they may be votes for classes"
        elif (values % 1 == 0).all():
            words += '; all are whole, so they may be counts, or classes: then task = "several"'
        return [
            Finding("task", "regression", words, "may be" not in words),
            Finding("metric", "rmse", "usual for numbers; the competition's page says what is scored", False),
        ]
    if not wide:
        one = bool((values.sum(1) == 1).all())
        words = f"{len(target)} columns of 0 and 1, {'exactly one 1 in every row' if one else 'several ones a row'}"
        metric = "accuracy" if one else "f1_macro"
        why = Finding("metric", metric, "the sample submission has one column, of labels", False)
        return [Finding("task", "multiclass" if one else "multilabel", words), why]
    if (values.sum(1) == 1).all():
        return [
            Finding("task", "multiclass", f"{len(target)} columns of 0 and 1, exactly one 1 in every row"),
            Finding("metric", "log_loss", "usual where each class has a column of probabilities", False),
        ]
    words = f"{len(target)} columns of 0 and 1, {values.sum(1).mean():.2f} ones a row on average"
    return [
        Finding("task", "multilabel", words),
        Finding("metric", "average_precision", "usual for probabilities of labels; roc_auc is as common", False),
    ]


def _joined(cells: pd.Series, separator: str, target: str, given: list[str]) -> list[Finding]:
    parts = Counter(part.strip() for cell in cells for part in cell.split(separator) if part.strip())
    words = f"cells of {target!r} are labels joined by {separator!r}: {listed(sorted(parts))}"
    sent = {part.strip() for cell in given for part in cell.split(separator) if part.strip()}
    metric, why = (
        ("f1_macro", "holds labels") if sent <= set(parts) else ("average_precision", "holds none of the labels")
    )
    return [
        Finding("task", "multilabel", words, separator != "," or bool((cells == "").any())),
        Finding("separator", separator, f"{(cells == '').sum()} of {len(cells)} rows have no label"),
        Finding("metric", metric, f"the sample submission {why}; f1_samples, f1_micro are as common", False),
    ]


def _numbers(target: str, values: np.ndarray, floats: bool, wide: bool) -> list[Finding]:
    distinct = np.unique(values)
    spread = f"column {target!r} has {len(distinct)} values from {distinct[0]:g} to {distinct[-1]:g}"
    if (values % 1 != 0).any():
        return [
            Finding("task", "regression", f"{spread}, not all whole"),
            Finding("metric", "rmse", "usual for numbers; the competition's page says what is scored", False),
        ]
    if distinct.tolist() == [0, 1]:
        return _binary(f"column {target!r} is 0 or 1 ({values.mean():.1%} ones)", floats, None)
    steps = distinct.tolist() == list(range(int(distinct[0]), int(distinct[0]) + len(distinct)))
    if GRADES.search(target) and steps and distinct[0] in (0, 1) and len(distinct) <= 11 and not wide:
        words = f"{spread}, all whole, without a gap, and its name speaks of grades"
        if floats:
            return [
                Finding("task", "regression", f"{words}; the sample submission holds numbers with a point", False),
                Finding("metric", "rmse", "usual where grades are sent as numbers", False),
            ]
        return [
            Finding("task", "ordinal", words),
            Finding("metric", "quadratic_kappa", "usual for grades; the competition's page says what is scored", False),
        ]
    few = len(distinct) <= 20 and len(values) >= 3 * len(distinct)
    if few or wide or NUMBERS_OF_CLASSES.search(target):
        return _classes(f"{spread}, all whole: numbers of classes", few or wide, floats, wide)
    return [
        Finding("task", "regression", f"{spread}, all whole: too many for classes", False),
        Finding("metric", "rmse", "usual for numbers; the competition's page says what is scored", False),
    ]


def _names(target: str, full: pd.Series, floats: bool, wide: bool) -> list[Finding]:
    counts = Counter(full.tolist())
    names = sorted(counts)
    if len(names) == 2:
        order = names[::-1] if names[1].lower() in NEGATIVE and names[0].lower() not in NEGATIVE else names
        words = f"column {target!r} is {names[0]!r} or {names[1]!r}; a probability is that of {order[1]!r}"
        return _binary(words, floats, order if order != names else None)
    rare, often = min(counts, key=lambda n: counts[n]), max(counts, key=lambda n: counts[n])
    words = (
        f"column {target!r} has {len(names)} names of classes, from {rare!r} ({counts[rare]} rows) "
        f"to {often!r} ({counts[often]})"
    )
    return _classes(words, len(names) <= len(full) / 2, floats, wide)


def _binary(words: str, floats: bool, classes: list[str] | None) -> list[Finding]:
    metric, why = ("roc_auc", "numbers with a point") if floats else ("accuracy", "no numbers with a point")
    found = [
        Finding("task", "binary", words),
        Finding("metric", metric, f"the sample submission holds {why}; log_loss, f1 are as common", False),
    ]
    if classes is not None:
        found.append(Finding("classes", classes, "the class whose probability is asked stands second", False))
    return found


def _classes(words: str, sure: bool, floats: bool, wide: bool) -> list[Finding]:
    metric, why = ("log_loss", "has a column a class") if wide else ("accuracy", "has one column of classes")
    return [
        Finding("task", "multiclass", words, sure),
        Finding("metric", metric, f"the sample submission {why}; f1_macro, balanced_accuracy are as common", False),
    ]
