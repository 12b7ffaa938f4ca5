"""What a forecast reads of shelves."""

import numpy as np

from pipeline.forecast.sources import distances, votes
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


def test_votes_are_of_rows_that_the_model_learnt_and_of_no_others(tmp_path):
    rng = np.random.default_rng(0)
    ids, foreign = np.array([f"r{j}" for j in range(40)]), np.arange(30) % 3 == 0
    embeddings, labels = rng.normal(size=(40, 5)).astype(np.float16), rng.random((30, 2))
    scored, learnt = 2 * np.arange(30), ~foreign & (np.arange(30) % 4 != 1)  # the others could not be read, say
    model = FoldFiles(tmp_path)
    np.save(model.embeddings, embeddings)
    np.save(model.rows, np.r_[scored[learnt], 99].astype(np.int32))  # and an extra row, which has no embedding
    found = votes(model, ids, foreign, scored, labels, 3)
    unit = embeddings.astype(float) / np.linalg.norm(embeddings.astype(float), axis=1, keepdims=True)
    near = np.argsort(-(unit @ unit[:30][learnt].T), axis=1)[:, :3]
    mine = np.r_[foreign, np.ones(10, bool)]
    np.testing.assert_allclose(found[mine], labels[learnt][near].mean(1)[mine], atol=1e-6)
    assert np.isnan(found[~mine]).all()
    other = np.where(learnt[:, None], labels, 1 - labels)
    np.testing.assert_array_equal(votes(model, ids, foreign, scored, other, 3), found)
