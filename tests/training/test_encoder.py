"""A frozen encoder: what images look like to it, and that nothing learnt of labels is one."""

import logging
import sys

import cv2
import numpy as np
import pytest
import timm
import torch
from house import make_competition, prepare, stage, write
from safetensors.torch import save_file
from school import learn

from pipeline.images.cache import cached
from pipeline.scoring.clusters import alike, clusters
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import load_competition
from pipeline.store.encoder import Encoder
from pipeline.store.errors import UserError
from pipeline.store.imbalance import Sampling
from pipeline.store.keys import folds_key, read_table_facts, train_keys
from pipeline.store.runs import load_run
from pipeline.store.table import read_table
from pipeline.training import encoder as encoding
from pipeline.training.encoder import encode
from pipeline.training.weights import save_weights
from pipeline.training.which import Which

SECTION = '[{}.encoder]\nname = "test_vit"\nweights = "{}"\nsize = 32\n'


def network(seed=0, name="test_vit"):
    torch.manual_seed(seed)
    return timm.create_model(name, in_chans=3, num_classes=0)


@pytest.fixture
def looked(house):
    """A competition whose folds keep together what looks alike to an encoder; its weights are a file."""
    data = make_competition(house, "multiclass", extra="alike = 0.002\n" + SECTION.format("folds", "e.safetensors"))
    save_file(network().state_dict(), "e.safetensors")
    image = cv2.imread(str(data / "train/i000.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(data / "train/i031.png"), np.clip(image.astype(int) + 1, 0, 255).astype(np.uint8))
    for name, grey in (("i005", 7), ("i006", 8)):
        cv2.imwrite(str(data / f"train/{name}.png"), np.full_like(image, grey))
    (data / "train/i009.png").write_bytes(b"no image at all")
    return house


def seen():
    config, files = load_competition("toy"), CompetitionFiles("toy")
    table = read_table(files, read_table_facts(files))
    return encode(files, table.paths, table.digests, config.images, config.folds.encoder), table


def test_features_are_those_of_timm_pooled_and_of_length_one(looked):
    prepare()
    table, files, contract = seen()[1], CompetitionFiles("toy"), load_competition("toy").images
    state, net = network(name="test_resnet").state_dict(), timm.create_model("test_resnet", in_chans=1, num_classes=0)
    save_file(state, "r.safetensors")
    x = encode(
        files, table.paths, table.digests, contract, Encoder(name="test_resnet", weights="r.safetensors", size=32)
    )
    state["conv1.0.weight"] = state["conv1.0.weight"].sum(1, keepdim=True)  # as timm takes colours for grey
    net.eval().load_state_dict(state)
    images, _ = cached(files, table.paths, table.digests, contract, (32, 32))
    for row in (0, 31, 77):
        pixels = torch.from_numpy(np.array(images[row])).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            wanted = net((pixels - 0.449) / 0.226)[0].numpy()
        np.testing.assert_allclose(x[row], wanted / np.linalg.norm(wanted), atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(np.delete(x, [5, 6, 9], 0), axis=1), 1, atol=1e-6)
    assert not x[[5, 6, 9]].any(), "flat images, and what cannot be read, look like nothing"


def test_look_alikes_of_the_encoder_share_a_fold_and_are_seen_once(looked, caplog, monkeypatch):
    with caplog.at_level(logging.INFO):
        prepare()
    assert caplog.text.count("looks of 84 images") == 1
    monkeypatch.setattr(encoding, "embed", None)  # the second time nothing is computed
    x, table = seen()
    groups = alike(x, 0.002)[:60]
    assert groups[0] == groups[31] >= 0
    assert (groups < 0).sum() > 40, "and what is not alike stands alone"
    for number in np.unique(groups[groups >= 0]):
        assert len(np.unique(table.folds[:60][groups == number])) == 1
    assert table.units[0] == table.units[31]


def test_without_an_encoder_folds_import_none(house, monkeypatch):
    make_competition(house, "binary", extra="alike = 0.001\nclusters = 3\n")
    monkeypatch.setitem(sys.modules, "pipeline.training.encoder", None)
    prepare()
    path = house / "configs/toy/competition.toml"
    path.write_text(path.read_text() + SECTION.format("folds", "e.safetensors"))
    with pytest.raises(ImportError):
        stage("folds", "toy")


def test_other_weights_are_another_split(looked):
    prepare()
    config, files = load_competition("toy"), CompetitionFiles("toy")
    before, (x, _) = folds_key(config, files), seen()
    save_file(network(1).state_dict(), "e.safetensors")
    assert folds_key(config, files) != before
    assert abs(seen()[0] - x).max() > 0.01


def test_labels_do_not_move_what_is_joined(looked):
    prepare()
    x, table = seen()
    path = CompetitionFiles("toy").data / "train.csv"
    path.write_text(path.read_text().replace("ant", "BEE").replace("bee", "ant").replace("BEE", "bee"))
    prepare()
    again, other = seen()
    np.testing.assert_array_equal(again, x)
    assert (other.y != table.y).any()
    assert ((other.units[:60, None] == other.units[:60]) == (table.units[:60, None] == table.units[:60])).all()


def test_clusters_of_a_run_are_those_of_its_encoder(school, monkeypatch):
    save_file(network().state_dict(), "e.safetensors")
    write(
        "n",
        'base = "s"\n[sampling]\nbalance = "clusters"\nclusters = 7\n' + SECTION.format("sampling", "e.safetensors"),
    )
    before = torch.get_rng_state()
    job, course = learn("toy/n", 1, half=0)
    assert torch.equal(torch.get_rng_state(), before), "what is drawn after does not hang on the cache"
    how, rows, gold = job.config.sampling.encoder, job.table.labelled, course.lessons.gold
    x = encode(job.files.competition, job.table.paths[rows], job.table.digests[rows], job.competition.images, how)
    which = clusters(x[gold], 7, Which((1,), 0).seed(job.config.seed))
    np.testing.assert_allclose(course.lessons.draw, 1 / np.bincount(which)[which])
    monkeypatch.setattr(encoding, "embed", None)
    assert np.array_equal(learn("toy/n", 1, half=0)[1].lessons.draw, course.lessons.draw)
    write("m", 'base = "s"\n[sampling]\nbalance = "clusters"\nclusters = 7\n')
    assert not np.array_equal(learn("toy/m", 1, half=0)[1].lessons.draw, course.lessons.draw)
    facts = read_table_facts(job.files.competition)
    fitted = train_keys(load_run("toy/n"), job.competition, facts)[0]
    save_file(network(1).state_dict(), "e.safetensors")
    assert train_keys(load_run("toy/n"), job.competition, facts)[0] != fitted


@pytest.mark.parametrize(
    "weights, said",
    [
        ("runs/toy/a/fold0/model.safetensors", "is of a run, and has learnt labels"),
        ("runs/other/a/fold0/model.safetensors", "is of a run, and has learnt labels"),
        ("copied.safetensors", "is of a run, and has learnt labels"),
        ("none", "what was never trained tells little"),
        ("nowhere.safetensors", "nowhere.safetensors does not exist"),
    ],
)
def test_what_learnt_labels_is_no_encoder(weights, said, house):
    make_competition(house, "binary", extra="clusters = 3\n" + SECTION.format("folds", weights))
    save_weights(house / "copied.safetensors", network(), key="x")
    with pytest.raises(UserError, match=said):
        prepare()
    assert not list(house.glob("folds/*"))


def test_an_encoder_that_nobody_asks_is_refused(house):
    make_competition(house, "binary", extra=SECTION.format("folds", "e"))
    with pytest.raises(UserError, match=r"give folds\.alike, clusters or holdout_like"):
        load_competition("toy")
    with pytest.raises(ValueError, match='it needs sampling.balance = "clusters"'):
        Sampling(encoder=Encoder(name="test_resnet"))
