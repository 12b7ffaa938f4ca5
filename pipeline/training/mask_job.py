"""What the models of a run with masks share: its network, what it sees, what it predicts; refusals before all else."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.images.fits import require_fit
from pipeline.masks.maps import SHELF, Layout, layout
from pipeline.masks.truth import Truth, read_truth
from pipeline.nets.mask_nets import Extras, MaskNetwork, build_masks
from pipeline.nets.mask_objective import SIZES, Heads, MaskObjective
from pipeline.nets.trunk import set_activation, with_drop_path
from pipeline.store.errors import UserError, resolve
from pipeline.store.files import Array, require_space
from pipeline.training.mask_predict import MASK_TTA, Look

if TYPE_CHECKING:
    from pipeline.training.job import Job

NAME = "segmentation"
MASK_SETTINGS = {
    "model": {"encoder", "presence", "coordinates", "hypercolumn"},
    "image": {"fit"},
    "loss": {"terms", "then", "non_empty", "presence", "distance", "size_classes", "deep", "hinge", "symmetric",
             "tversky"},
    "predict": {"shelf_scale", "overlap", "window"},
    "sampling": {"non_empty", "equal"},
}  # fmt: skip


def size_of(job: Job) -> tuple[int, int]:
    """Return height and width of what the network sees."""
    height, width = job.size
    return height, width


def extra_maps(job: Job) -> int:
    """Return how many maps beside those of the classes a run predicts: the distance, where it is learnt."""
    return int(job.config.loss.distance > 0)


def maps_layout(job: Job, rows: Array) -> Layout:
    """Return how the predictions of some rows of the table lie on the shelf."""
    scale = job.config.predict.shelf_scale
    return layout(job.table.sizes[rows], len(job.table.classes), extra_maps(job), scale)


def look_of(job: Job) -> Look:
    """Return how the masks of a run are predicted."""
    how, fit = job.config.predict, job.config.image.fit
    # Maps take far more memory than one score an image: a batch is about one of training.
    size = min(how.batch_size, 32)
    return Look(
        job.competition.masks.exclusive, fit, size_of(job), how.tta, how.shelf_scale, how.overlap, how.window, size
    )


def new_mask_network(job: Job) -> MaskNetwork:
    """Build the network of a run with masks, on the CPU."""
    model, loss = job.config.model, job.config.loss
    build = partial(
        build_masks,
        model.name,
        encoder=model.encoder,
        weights=model.weights,
        channels=job.competition.images.width,
        size=size_of(job),
        classes=len(job.table.classes),
        extra=extra_maps(job),
        presence=model.presence,
        sizes=SIZES if loss.size_classes else 0,
        deep=loss.deep > 0,
        extras=Extras(model.coordinates, model.hypercolumn, model.dropout, job.config.image.normalize),
    )
    named = f"{model.name} with encoder {model.encoder}"
    network: MaskNetwork = with_drop_path(lambda more: build(options=more), dict(model.options), model.drop_path, named)
    set_activation(network, model.act, named)
    return network


def mask_objective(job: Job, heads: Heads, rows: Array) -> MaskObjective:
    """Return what a network is compared with; sizes of masks are small or large among those of some rows (table)."""
    loss, exclusive = job.config.loss, job.competition.masks.exclusive
    y = job.table.y[rows]
    share = 1 - y[:, 0] if exclusive else y.max(1)
    edges = np.quantile(share[share > 0], [1 / 3, 2 / 3]) if (share > 0).any() else np.array([0.3, 0.6])
    given = loss.model_dump() | {"presence": loss.presence if job.config.model.presence else 0.0}
    return MaskObjective(heads, size_of(job), exclusive, torch.tensor(edges, dtype=torch.float32), **given)


def truth_of(job: Job) -> Truth:
    """Return the masks of the labelled rows."""
    return read_truth(job.files.competition, job.table, job.competition)


def check_masks(job: Job) -> None:
    """Refuse what a run with masks cannot do, and what its disk cannot hold, before anything is trained."""
    config, competition, where = job.config, job.competition, job.files.config
    odd = {
        "fit": config.fit != "network",
        "indicators": config.indicators,
        "teacher": config.teacher is not None,
        "tags": config.tags is not None,
        "pairs": config.pairs,
        "image.crop": config.image.crop > 0,
        'image.normalize = "group"': config.image.normalize == "group",
        "predict.hard_tta": config.predict.hard_tta != "none",
        "predict.fastest": config.predict.fastest,
        "model.dropouts": config.model.dropouts > 1,
        "model.multiscale (hypercolumn = true is that of masks)": config.model.multiscale != "none",
        "loss.name": config.loss.name != "auto",
        "loss.smoothing": config.loss.smoothing > 0,
        "loss.class_weight": config.loss.class_weight != "none",
        "loss.auxiliary": bool(config.loss.auxiliary),
        "loss.logit_adjust": config.loss.logit_adjust > 0,
        "semi.method": config.semi.method != "none",
        "decouple.method": config.decouple.method != "none",
        "predict.logit_adjust": config.predict.logit_adjust > 0,
        'sampling.balance = "balanced" (equal = true is that of masks)': config.sampling.balance == "balanced",
        "loss.distance with masks.exclusive": config.loss.distance > 0 and competition.masks.exclusive,
    }
    for name, asked in odd.items():
        if asked:
            raise UserError(f"{where}: {name} is not for a segmentation task: take it out")
    if competition.metadata is not None or competition.images.view:
        what = "[metadata]" if competition.metadata is not None else "images.view"
        raise UserError(f"{job.files.competition.config}: {what} joins a head, and masks have none: take it out")
    if config.pseudo and config.sampling.equal and config.image.fit == "tiles":
        raise UserError(f"{where}: sampling.equal gives each class its tile in turn, pseudo-labels none: take one out")
    resolve(MASK_TTA, config.predict.tta, "predict.tta")
    height, width = size_of(job)
    if config.predict.tta == "d4" and height != width:
        raise UserError(f'{where}: predict.tta = "d4" turns images by 90 degrees: image.size must be square')
    table = job.table
    every = np.concatenate([table.labelled, table.test, table.holdout])
    require_fit(config.image.fit, (height, width), table.sizes[every], table.ids[every], str(where))
    mask_objective(job, Heads(len(table.classes)), table.scored)
    scored, test, holdout = (maps_layout(job, rows).total for rows in (table.scored, table.test, table.holdout))
    # Of a fold that is trained in halves there are the maps of each and those put together.
    repeats, models = job.repeats, len(job.folds) * job.repeats * (3 if job.halves else 1)
    need = SHELF.itemsize * (scored * (repeats * (3 if job.halves else 1) + 1) + (test + holdout) * (models + 1))
    require_space(job.files.folder, need, "the predicted masks of the run")


def refuse_mask_settings(job: Job) -> None:
    """Refuse what is about masks in a run without any: it would do nothing."""
    config = job.config
    for section, names in MASK_SETTINGS.items():
        for name in sorted(names & getattr(config, section).model_fields_set):
            raise UserError(f'{job.files.config}: {section}.{name} is about masks: it needs task = "segmentation"')
