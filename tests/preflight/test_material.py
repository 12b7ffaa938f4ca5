"""What the checks look at is what a training trains on."""

import numpy as np
import pytest
import torch

from pipeline.nets.mask_objective import MaskObjective
from pipeline.nets.objective import Objective
from pipeline.preflight.learner import scores_of
from pipeline.preflight.material import material_of
from pipeline.store.tracking import Tracker
from pipeline.training.auxiliary import Widened
from pipeline.training.fold import fit_fold
from pipeline.training.metric_learning import Margined, Tripled


class Seen(Exception):
    pass


def first_step(material, kind, monkeypatch):
    """The scores and targets that the first step of a training is compared by."""
    caught = []

    def catch(self, scores, targets):
        caught.extend([scores.detach(), targets])
        raise Seen

    with monkeypatch.context() as patch:
        patch.setattr(kind, "loss", catch)
        with pytest.raises(Seen):
            fit_fold(material.job, material.which, Tracker())
    return caught


MIXED = '[image]\nsize = 12\nnormalize = "train"\n[augment]\nrecipe = "light"\nmixup = 0.4\n'


@pytest.mark.parametrize("task", ["multiclass", "ordinal", "segmentation"])
def test_a_batch_is_the_one_that_a_training_sees_first(task, material, monkeypatch):
    size = 16 if task == "segmentation" else 12
    one = material(
        task, old=f'[image]\nsize = {size}\n[augment]\nrecipe = "none"\n', new=MIXED.replace("12", str(size))
    )
    scores, targets = first_step(one, MaskObjective if one.masks else Objective, monkeypatch)
    batch = next(one.stream())
    torch.testing.assert_close(batch.y, targets)
    torch.testing.assert_close(scores_of(one, one.network(), batch), scores)


SWITCHED = {
    Margined: '[metric_learning]\nloss = "arcface"\n[image]\n',
    Tripled: '[metric_learning]\nloss = "triplet"\nneck = true\n[sampling]\nper_class = 4\n[image]\n',
    Widened: "dropout = 0.5\ndropouts = 3\n[image]\n",
}


@pytest.mark.parametrize("kind", SWITCHED)
def test_the_whole_of_what_is_learnt_is_looked_at(kind, material, monkeypatch):
    one = material(old="[image]\n", new=SWITCHED[kind])
    assert type(one.goal) is kind
    scores, targets = first_step(one, kind, monkeypatch)
    batch = next(one.stream())
    torch.testing.assert_close(batch.y, targets)
    seen = scores_of(one, one.network(), batch)
    columns = slice(0, None if kind is not Widened else 0)  # whose dropout masks are drawn anew
    assert seen.shape == scores.shape
    torch.testing.assert_close(seen[:, columns], scores[:, columns])


def test_plain_batches_are_the_images_and_a_network_is_fresh_every_time(material):
    one = material()
    batch = one.batch(one.rows[:5])
    pictures = np.asarray(one.images[one.rows[:5]]) / 255
    np.testing.assert_allclose(batch.x.permute(0, 2, 3, 1).numpy(), pictures, atol=1e-6)
    first, second = one.network(), one.network()
    with torch.no_grad():
        first.head.weight.zero_()
    assert second.head.weight.any()
    assert one.first.head.weight.any()
    assert set(one.sample(7)) <= set(one.rows)
    assert len(one.sample(7)) == 7
    assert not np.isin(one.rows, np.flatnonzero(one.job.table.folds[one.job.table.scored] == 0)).any()


def test_a_stream_goes_on_into_the_next_epoch(material):
    one = material()
    batches = [batch for _, batch in zip(range(7), one.stream(), strict=False)]
    rows = np.concatenate([batch.rows for batch in batches])
    assert len(rows) > 2 * len(one.rows)
    assert sorted(rows[: len(one.rows)]) == sorted(one.rows)
    assert material_of(one.job, one.which).seed == one.seed
