"""What a forecast reads of shelves."""

import numpy as np

from pipeline.forecast.sources import distances
from pipeline.store.artifacts import FoldFiles
from pipeline.store.table import half_of


def test_distances_are_inside_the_model_that_did_not_learn_the_row(tmp_path):
    rng = np.random.default_rng(0)
    ids = np.array([f"r{j}" for j in range(40)])
    embeddings, foreign = rng.normal(size=(40, 5)).astype(np.float16), np.arange(30) % 3 == 0
    unit = embeddings.astype(float) / np.linalg.norm(embeddings.astype(float), axis=1, keepdims=True)
    near = np.sort(1 - unit @ unit[:30][~foreign].T, 1)[:, :10].mean(1)
    mine = np.r_[foreign, np.ones(10, bool)]
    whole = FoldFiles(tmp_path / "whole")
    for model, values in (
        (whole, embeddings),
        *((FoldFiles(tmp_path / "two").half(h), embeddings * (1 + h)) for h in (0, 1)),
    ):
        model.folder.mkdir(parents=True)
        if (
            model is not whole
        ):  # each half knows other rows: those of the half it predicts lie as they are, others mirrored
            values = np.where(
                (half_of(ids) == 1 - int(model.folder.name[-1]))[:, None] | ~mine[:, None], embeddings, -embeddings
            )
        np.save(model.embeddings, values)
    for model in (whole, FoldFiles(tmp_path / "two")):
        found = distances(model, ids, foreign)
        np.testing.assert_allclose(found[mine], near[mine], atol=1e-3)
        assert (found[~mine] == 0).all()
