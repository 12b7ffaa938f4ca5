import mmap

from pipeline.training.cost import forget_peak, peak_memory


def test_the_peak_is_of_what_came_since():
    forget_peak()
    before = peak_memory()
    # Not from the heap, which may hold as much that was freed before.
    with mmap.mmap(-1, 64_000_000) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        assert peak_memory() >= before + 50e6
    high = peak_memory()
    forget_peak()
    assert peak_memory() < high - 30e6
