import numpy as np

from pipeline.training.cost import forget_peak, peak_memory


def test_the_peak_is_of_what_came_since():
    forget_peak()
    before = peak_memory()
    held = np.ones(8_000_000)  # 64 MB, touched
    assert peak_memory() >= before + 50e6
    del held
    high = peak_memory()
    forget_peak()
    assert peak_memory() < high - 30e6
