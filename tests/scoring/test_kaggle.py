"""A competition's own metric file: what it is given, and each way in which it can fail."""

import json
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as sk

from pipeline.scoring.bootstrap import standard_error
from pipeline.scoring.cuts import optimal_cuts
from pipeline.scoring.kaggle import from_file, load
from pipeline.scoring.metrics import METRICS, metric_of
from pipeline.scoring.problem import Problem
from pipeline.store.artifacts import CompetitionFiles
from pipeline.store.config import load_competition
from pipeline.store.errors import UserError
from pipeline.store.files import write_json
from pipeline.tasks import TASKS

FILES = CompetitionFiles("toy")
HEAD = """import pandas as pd

class ParticipantVisibleError(Exception):
    pass

def score(solution: pd.DataFrame, submission: pd.DataFrame, row_id_column_name: str) -> float:
"""
ACCURACY = HEAD + "    return float((solution['y'] == submission['y']).mean())\n"


@pytest.fixture
def competition(tmp_path, monkeypatch):
    """Write a contract with its own metric, a sample and the classes; return the contract."""
    monkeypatch.chdir(tmp_path)

    def write(code, task="multiclass", header="id,y", cell="a", classes=("a", "b", "c"), greater="true", **settings):
        for folder in ("configs/toy", "data/toy", "cache/toy"):
            Path(folder).mkdir(parents=True, exist_ok=True)
        Path("configs/toy/metric.py").write_text(code)
        target = settings.pop("target", '"y"')
        extra = "".join(f"{name} = {value}\n" for name, value in settings.items())
        greater = f"metric_greater = {greater}\n" if greater else ""
        Path("configs/toy/competition.toml").write_text(
            f'task = "{task}"\nmetric = "metric.py"\n{greater}id = "id"\ntarget = {target}\n{extra}'
        )
        rows = [f"r{i}" + f",{cell}" * header.count(",") for i in range(3)]
        (FILES.data / "sample_submission.csv").write_text("\n".join([header, *rows]) + "\n")
        write_json(FILES.table_receipt, {"classes": list(classes)})
        return load_competition("toy")

    return write


def seen():
    """Return what a metric file that keeps its arguments was given: a fresh run of the file has none."""
    return json.loads(Path("seen.json").read_text())


TELL = (
    HEAD
    + """    import json
    frames = [f.to_dict("list") for f in (solution, submission)]
    from pathlib import Path
    Path("seen.json").write_text(json.dumps([*frames, row_id_column_name, [str(t) for t in solution.dtypes]]))
    return 0.5
"""
)
LIST = '["a", "b", "c"]'
P3 = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
GIVEN = {
    "labels": ("multiclass", "id,y", {}, [2, 0], [1, 0], {"y": ["c", "a"]}, {"y": ["b", "a"]}),
    "columns": ("multiclass", "id,c,a,b", {}, [2, 0], P3, {"c": [1, 0], "a": [0, 1], "b": [0, 0]}, {"c": [0.3, 0.3], "a": [0.2, 0.6], "b": [0.5, 0.1]}),
    "the best": ("multiclass", "id,y", {"submission": "{ best = 2 }"}, [2, 0], P3, {"y": ["c", "a"]}, {"y": ["b c", "a c"]}),
    "probability": ("binary", "id,y", {"submission": '{ format = "value" }'}, [1, 0], [0.3, 0.6], {"y": [1, 0]}, {"y": [0.3, 0.6]}),
    "joined": ("multilabel", "id,y", {"separator": '" "'}, [[1, 0, 1], [0, 1, 0]], [[1, 0, 0], [0, 1, 1]], {"y": ["a c", "b"]}, {"y": ["a", "b c"]}),
    "label columns": ("multilabel", "id,a,b,c", {"target": LIST, "submission": '{ format = "value" }'}, [[1, 0, 1], [0, 1, 0]], P3,
                      {"a": [1, 0], "b": [0, 1], "c": [1, 0]}, {"a": [0.2, 0.6], "b": [0.5, 0.1], "c": [0.3, 0.3]}),
    "values": ("regression", "id,v,u", {"target": '["u", "v"]'}, [[1.5, 2.0], [3.0, 4.0]], [[1.0, 2.5], [3.5, 4.5]],
               {"v": [2.0, 4.0], "u": [1.5, 3.0]}, {"v": [2.5, 4.5], "u": [1.0, 3.5]}),
}  # fmt: skip


@pytest.mark.parametrize("case", GIVEN)
def test_is_given_what_kaggle_gives_it(competition, case):
    task, header, settings, y, guess, solution, submission = GIVEN[case]
    classes = {"regression": ["u", "v"], "binary": ["a", "b"]}.get(task, ["a", "b", "c"])
    config = competition(TELL, task, header, "0.5" if "probability" in case else "a", classes, **settings)
    metric = metric_of(config, FILES)
    score = metric.score(TASKS[task], np.array(y), np.array(guess), np.ones(2))
    assert (metric.name, metric.greater, score) == ("metric.py", True, 0.5)
    told = seen()
    assert told[0] == {"id": [0, 1], **solution}
    assert list(told[1]) == ["id", *header.split(",")[1:]]
    assert told[1]["id"] == [0, 1]
    for name, values in submission.items():
        assert told[1][name] == pytest.approx(values) if isinstance(values[0], float) else told[1][name] == values
    assert told[2] == "id"


def test_numbers_are_numbers_and_an_empty_cell_is_missing(competition):
    config = competition(TELL, "ordinal", cell="0", classes=["0", "1", "2"], submission='{ format = "label" }')
    metric = metric_of(config, FILES)
    metric.function(np.array([2, 0]), np.array([1, 0]), np.ones(2))
    assert seen()[0]["y"] == [2, 0]
    assert seen()[3] == ["int64", "int64"]
    code = HEAD + "    assert submission['y'].isna().tolist() == [True, False]\n    return 1.0\n"
    config = competition(code, "multilabel", separator='" "')
    assert metric_of(config, FILES).function(np.eye(2, 3, dtype=int), np.array([[0, 0, 0], [0, 1, 0]]), np.ones(2)) == 1


def test_a_row_drawn_twice_stands_there_twice(competition):
    metric = metric_of(competition(TELL), FILES)
    y, guess = np.array([0, 1, 2]), np.array([0, 1, 1])
    metric.function(y, guess, np.array([2.0, 0.0, 1.0]))
    assert seen()[0] == {"id": [0, 1, 2], "y": ["a", "a", "c"]}
    # Other weights draw rows as often as their share of the sum says.
    metric.function(y, guess, np.array([0.5, 0.5, 2.0]))
    assert sorted(seen()[0]["y"]) == ["b", "c", "c"] or sorted(seen()[0]["y"]) == ["a", "c", "c"]
    assert np.isnan(metric.function(y, guess, np.zeros(3)))


def test_scores_and_resamples_as_a_metric_of_ours(competition):
    metric = metric_of(competition(ACCURACY), FILES)
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 3, 40), rng.dirichlet(np.ones(3), 40)
    weight = rng.uniform(0.5, 2, 40)
    mine = Problem(TASKS["multiclass"], metric, 3, y, np.arange(40) % 2, None, weight)
    ours = Problem(TASKS["multiclass"], METRICS["accuracy"], 3, y, np.arange(40) % 2, None)
    assert mine.score(p) == ours.score(p) == sk.accuracy_score(y, p.argmax(1))
    errors = [standard_error(lambda draws, q=q: q.score(p, None, draws), 40, None) for q in (mine, ours)]
    assert errors[0] == pytest.approx(errors[1])
    assert mine.part(np.arange(7)).score(p[:7]) == ours.part(np.arange(7)).score(p[:7])


@pytest.mark.parametrize(
    "body, said",
    [
        (
            "    raise ParticipantVisibleError('two\\n  lines')\n",
            r"metric.py: score\(\) raised ParticipantVisibleError: two lines",
        ),
        ("    return solution['nothing'].mean()\n", r"score\(\) raised KeyError: 'nothing'"),
        ("    return float('nan')\n", r"metric.py: score\(\) returned nan: it must return a finite number"),
        ("    return float('inf')\n", r"score\(\) returned inf"),
        ("    return None\n", r"score\(\) returned None"),
        ("    return 'good'\n", r"score\(\) returned 'good'"),
        ("    return True\n", r"score\(\) returned True"),
    ],
)
def test_a_metric_that_fails_is_told_in_one_line(competition, body, said):
    metric = metric_of(competition(HEAD + body), FILES)
    y = np.array([0, 1, 2])
    with pytest.raises(UserError, match=said) as error:
        metric.function(y, y, np.ones(3))
    assert "\n" not in str(error.value)
    # A resample may have lost what the metric needs.
    assert np.isnan(metric.function(y, y, np.array([2.0, 0.0, 1.0])))


@pytest.mark.parametrize(
    "code, said",
    [
        ("score = 3\n", r"metric.py has no function score\(solution, submission, row_id_column_name\)"),
        ("import kaggle_metric_utilities_that_is_not_here\n", "metric.py cannot be run: ModuleNotFoundError"),
        ("def score(:\n", "metric.py cannot be run: SyntaxError"),
    ],
)
def test_a_file_that_is_no_metric(competition, code, said):
    competition(code)
    with pytest.raises(UserError, match=said):
        load(Path("configs/toy/metric.py"))


def test_contracts_that_do_not_say_enough(competition):
    with pytest.raises(UserError, match="metric_greater: a metric file needs it"):
        competition(ACCURACY, greater="")
    config = competition(ACCURACY, "binary", classes=["a", "b"])
    with pytest.raises(
        UserError, match=r'of a binary task cannot be guessed: set format = "label" or "value" in \[submission\]'
    ):
        from_file(config, FILES)
    config = competition(ACCURACY)
    Path("configs/toy/metric.py").unlink()
    with pytest.raises(UserError, match=r"competition.toml: metric configs/toy/metric.py does not exist"):
        from_file(config, FILES)
    config = competition(ACCURACY)
    (FILES.data / "sample_submission.csv").write_text("key,y\n1,a\n")
    with pytest.raises(UserError, match=r"has columns \['key', 'y'\]: it needs 'id'"):
        from_file(config, FILES)
    (FILES.data / "sample_submission.csv").write_text("")
    with pytest.raises(UserError, match=r"has columns \[\]: it needs 'id'"):
        from_file(config, FILES)
    (FILES.data / "sample_submission.csv").write_text("id,a,x\n1,0,0\n")
    with pytest.raises(UserError, match=r"columns \['a', 'x'\] are not the classes \['a', 'b', 'c'\]"):
        from_file(config, FILES).function(np.array([0, 1]), np.eye(2, 3), np.ones(2))
    (FILES.data / "sample_submission.csv").unlink()
    with pytest.raises(UserError, match="sample_submission.csv does not exist"):
        from_file(config, FILES)
    config = competition(
        ACCURACY, "multilabel", "id,a,b,c", target=LIST, unknown='"mask"', submission='{ format = "value" }'
    )
    with pytest.raises(UserError, match="cannot score partly unknown targets"):
        metric_of(config, FILES)


def test_a_frame_of_its_own_for_every_call(competition):
    """A metric may change what it is given."""
    metric = metric_of(
        competition(HEAD + "    del solution['id']\n    solution['y'] = submission.pop('y')\n    return 1.0\n"), FILES
    )
    y = np.array([0, 1, 2])
    assert metric.function(y, y, np.ones(3)) == metric.function(y, y, np.ones(3)) == 1


def test_soft_classes_are_columns_of_the_solution(competition):
    code = (
        HEAD
        + """
    import numpy as np
    y, p = (f.drop(columns=row_id_column_name).to_numpy() for f in (solution, submission))
    return float((y * np.log(y / p)).sum(1).mean())
"""
    )
    settings = {"target": LIST, "soft": "true"}
    metric = metric_of(competition(code, header="id,c,a,b", greater="false", **settings), FILES)
    rng = np.random.default_rng(0)
    y, p = rng.dirichlet(np.ones(3), 20), rng.dirichlet(np.ones(3), 20)
    mine, ours = (
        Problem(TASKS["multiclass"], m, 3, y, np.arange(20) % 2, None) for m in (metric, METRICS["kl_divergence"])
    )
    assert mine.score(p) == pytest.approx(ours.score(p))
    draws = np.arange(20) % 3
    assert mine.score(p, None, draws) == pytest.approx(ours.score(p, None, draws))
    # What submissions of labels say of soft targets, no file of the user's is asked to tell.
    config = competition(ACCURACY, header="id,a,b,c", submission='{ format = "label" }', **settings)
    with pytest.raises(UserError, match="metric 'metric.py' cannot score soft targets"):
        metric_of(config, FILES)


def test_a_file_is_read_anew_and_leaves_nothing_behind(competition):
    head = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n@dataclass\nclass A:\n    b: int\n\n"
    )
    competition(head + "def score(solution, submission, row_id_column_name):\n    return A(1).b\n")
    assert load(Path("configs/toy/metric.py"))(None, None, "id") == 1
    competition(head + "def score(solution, submission, row_id_column_name):\n    return A(2).b\n")
    assert load(Path("configs/toy/metric.py"))(None, None, "id") == 2
    assert sorted(path.name for path in Path("configs/toy").iterdir()) == ["competition.toml", "metric.py"]


def test_thresholds_are_found_for_a_file_of_labels(competition):
    settings = {"submission": '{ format = "label" }'}
    metric = metric_of(competition(ACCURACY, "binary", classes=["a", "b"], **settings), FILES)
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 200), rng.random((200, 1))  # too many for the label to be rare
    p = 0.3 * p + 0.2 * y[:, None]  # all below one half
    mine, ours = (Problem(TASKS["binary"], m, 2, y, np.arange(200) % 2, None) for m in (metric, METRICS["accuracy"]))
    best = mine.score(p, optimal_cuts(mine, p))
    assert mine.score(p) == pytest.approx(1 - y.mean())
    assert ours.score(p, optimal_cuts(ours, p)) - 0.03 <= best <= ours.score(p, optimal_cuts(ours, p))
