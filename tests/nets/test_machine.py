import pytest
import torch

from pipeline.nets.machine import Machine, choose_machine, memory_advice, to_device
from pipeline.store.errors import UserError


def test_what_is_chosen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PODIUM_THREADS", "3")
    assert choose_machine("auto") == Machine("cpu", "fp32", 3)
    assert choose_machine("bf16") == Machine("cpu", "bf16", 3)
    with pytest.raises(UserError, match="needs a GPU"):
        choose_machine("fp16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has, want in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has: has)
        assert choose_machine("auto") == Machine("cuda", want, 3)
    monkeypatch.setenv("PODIUM_THREADS", "two")
    with pytest.raises(UserError, match="PODIUM_THREADS must be a whole number above 0, got 'two'"):
        choose_machine("auto")


def test_placed_and_fused():
    usual = Machine("cpu", "fp32", 1)
    changed = Machine("cpu", "fp32", 1, layout="channels_first", quick=True)
    net = torch.nn.Conv2d(4, 4, 3)
    assert usual.place(net).weight.is_contiguous(memory_format=torch.channels_last)
    assert changed.place(net).weight.is_contiguous()
    for make in (torch.optim.AdamW, torch.optim.SGD):
        assert not usual.fuse(make(net.parameters(), lr=0.1)).param_groups[0]["fused"]
        assert changed.fuse(make(net.parameters(), lr=0.1)).param_groups[0]["fused"]
    changed.fuse(torch.optim.Rprop(net.parameters()))  # has no such kernel


@pytest.mark.parametrize("kind, full", [(torch.uint8, 255), (torch.uint16, 65535)])
def test_to_device_scales_to_one(kind, full):
    images = torch.tensor([0, full // 5, full] * 4).reshape(1, 2, 2, 3).to(kind)
    x = to_device(images, Machine("cpu", "fp32", 1))
    assert x.shape == (1, 3, 2, 2)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([0.0, 0.2, 1.0]))


def test_memory_advice_is_for_memory_only():
    views = torch.zeros(4, 8, 9, 1)

    def fail(error):
        with memory_advice(4, 1, views):
            raise error

    with pytest.raises(UserError, match=r"images 8 x 9: set optim\.accumulate = 2"):
        fail(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError, match="shapes"):
        fail(RuntimeError("shapes differ"))
