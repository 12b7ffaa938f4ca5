from pathlib import Path

from pipeline.trials.fanout import claimed, work_off


def test_nobody_does_what_another_holds(house):
    path = Path("deep/lock")
    with claimed(path) as first, claimed(path) as second, claimed(Path("deep/other")) as third:
        assert (first, second, third) == (True, False, True)
    with claimed(path) as again:
        assert again


def test_each_is_done_once_whoever_comes(house):
    done, here = [], [str(n) for n in range(6)]

    def do(unit):
        done.append(unit)
        if len(done) == 2:  # another process, while this one is at work
            work_off(here, lambda u: Path(u), done.__contains__, done.append)

    done.append("4")
    work_off(here, lambda u: Path(u), done.__contains__, do)
    assert sorted(done) == here
