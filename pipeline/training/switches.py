"""Refusals of switches that make no sense for a task or a head, before anything is trained."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from pipeline.scoring.split import fewest_learnt
from pipeline.store.errors import UserError, nearest
from pipeline.store.metric_learning import MetricLearning
from pipeline.tasks import refuse_several
from pipeline.training.layers import norms_of
from pipeline.training.patches import refusal

if TYPE_CHECKING:
    from torch import nn

    from pipeline.training.job import Job


def check_switches(job: Job) -> None:
    """Refuse what the task or the head of a run cannot have (what masks cannot have: see `mask_job.check_masks`)."""
    check_sampling(job)
    check_semi(job)
    check_auxiliary(job)
    check_metric_learning(job)
    if job.config.patches.size and (why := refusal(job)):
        raise UserError(f"{job.files.config}: [patches]: {why}")
    if job.task.name != "segmentation":
        check_head(job)


def check_norms(job: Job, network: nn.Module) -> None:
    """Refuse to adapt the batch norms of a network that has none."""
    bn, semi = job.config.predict.bn, job.config.semi.method
    asked = [f'predict.bn = "{bn}"'] * (bn != "off") + [f'semi.method = "{semi}"'] * (semi == "target_forward")
    if asked and not norms_of(network):
        what = f"{asked[0]} adapts batch norms, and {job.config.model.name!r} has none"
        raise UserError(f"{job.files.config}: {what}: take it out, or choose another model")


def check_semi(job: Job) -> None:
    """Refuse to decide where nothing is decided, and images without labels that are not there."""
    method, where = job.config.semi.method, job.files.config
    if method in ("fixmatch", "mmt"):
        refuse_several(job.competition, where, f'semi.method = "{method}"')
    if method == "fixmatch" and job.task.name == "regression":
        raise UserError(
            f'{where}: semi.method = "fixmatch" learns sure decisions; values have none: use "mean_teacher"'
        )


def check_head(job: Job) -> None:
    """Refuse to give classes equal footing in a head that does not tell them apart."""
    config, where, method = job.config, job.files.config, job.config.decouple.method
    asked = [f'decouple.method = "{method}"'] * (method != "none")
    asked += ["predict.logit_adjust"] * (config.predict.logit_adjust > 0)
    for what in asked:
        refuse_several(job.competition, where, what)
        if job.task.name == "regression":
            raise UserError(f"{where}: {what} needs classes; a regression has none: take it out")
        if config.fit != "network" and not job.task.probabilities:
            raise UserError(f"{where}: {what}: fit = {config.fit!r} predicts grades, not classes: take it out")
    for section in ("predict", "loss"):
        if job.head == "regression" and getattr(config, section).logit_adjust:
            what = 'set model.head = "classification"' if job.task.name == "ordinal" else "take it out"
            raise UserError(f"{where}: {section}.logit_adjust needs classes, and the head is a regression: {what}")
    if method in ("ncm", "tau") and job.head not in ("classification", "cumulative"):
        raise UserError(f'{where}: {asked[0]} compares classes: set model.head = "classification", or use "crt"')
    if method == "tau" and (job.task.name in ("binary", "multilabel") or job.head == "cumulative"):
        raise UserError(f'{where}: {asked[0]} compares classes that exclude each other: use "crt" or "ncm"')
    if method != "none" and config.indicators:
        raise UserError(f"{where}: {asked[0]} is of real classes, and indicators = true adds one: take one out")


def check_auxiliary(job: Job) -> None:
    """Refuse to learn columns that the contract does not name."""
    known, contract = job.competition.auxiliary, job.files.competition.config
    for name in job.config.loss.auxiliary:
        if known is None or name not in known.names:
            near = nearest(name, known.names) if known else f"give it, in {contract}"
            raise UserError(f"{job.files.config}: loss.auxiliary has {name!r}, which [auxiliary] does not name; {near}")


def check_metric_learning(job: Job) -> None:
    """Refuse to tell classes apart where there are none, or where a row may be of several."""
    config, where, loss = job.config, job.files.config, job.config.metric_learning.loss
    asked = {
        "sampling.per_class": (config.sampling.per_class > 0, ("binary", "multiclass", "ordinal")),
        "retrieval.k": (config.retrieval.k > 0, ("binary", "multiclass", "ordinal")),
        'metric_learning.loss = "arcface"': (loss == "arcface", ("multiclass",)),
        "[metric_learning]": (config.metric_learning != MetricLearning(), ("binary", "multiclass")),
    }
    for what, (wanted, tasks) in asked.items():
        if wanted and job.task.name not in tasks:
            raise UserError(f"{where}: {what} is for {' or '.join(tasks)}, not for {job.task.name}: take it out")


def check_retrieval(job: Job, width: int) -> None:
    """Refuse more neighbours than training rows, and principal components than them or features (`width`)."""
    how, rows, where = job.config.retrieval, fewest_learnt(job.table.folds[job.table.scored]), job.files.config
    if how.k > rows:
        raise UserError(f"{where}: retrieval.k = {how.k}: a model trains on {rows} rows: lower it")
    if how.pca > (most := min(width, rows - 1)):
        raise UserError(f"{where}: retrieval.pca = {how.pca}: a model has {most} components at most: lower it")


def check_sampling(job: Job) -> None:
    """Refuse to draw classes where there are none, or none of that name."""
    how, where = job.config.sampling, job.files.config
    if how.synthetic == "smote" and find_spec("imblearn") is None:
        raise UserError(f'{where}: sampling.synthetic = "smote" needs imbalanced-learn: pip install imbalanced-learn')
    rows = fewest_learnt(job.table.folds[job.table.scored])
    if how.balance == "clusters" and how.clusters > rows:
        raise UserError(f"{where}: sampling.clusters = {how.clusters}: a model trains on {rows} rows: lower it")
    of_classes = [n for n in ("balance", "repeat", "synthetic") if getattr(how, n) not in ("none", {}, "clusters")]
    for name in of_classes:
        refuse_several(job.competition, where, f"sampling.{name}")
        if job.task.name == "regression":
            raise UserError(f"{where}: sampling.{name} needs classes; a regression has none: take it out")
    for name in how.repeat:
        if name not in job.table.classes:
            raise UserError(f"{where}: sampling.repeat has no class {name!r}; {nearest(name, job.table.classes)}")
