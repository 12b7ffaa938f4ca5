import torch
from torch.nn import functional

from pipeline.nets.small_unet import SmallUNet


def test_every_level_is_joined():
    torch.manual_seed(0)
    net = SmallUNet(1, 1, widths=(3, 4, 5)).eval()
    x = torch.rand(2, 1, 16, 12)
    features = net.encoder(x)
    assert [f.shape[1:] for f in features] == [(1, 16, 12), (3, 16, 12), (4, 8, 6), (5, 4, 3)]
    low = net.decoder.blocks[0](torch.cat([functional.interpolate(features[3], (8, 6)), features[2]], 1))
    high = net.decoder.blocks[1](torch.cat([functional.interpolate(low, (16, 12)), features[1]], 1))
    torch.testing.assert_close(net.decoder(features), high)
    assert net.encoder.output_stride == 4
    assert [(block is net.decoder.blocks[0], stride) for block, stride in net.supervised] == [(True, 2)]
    assert len(SmallUNet(1, 1).supervised) == 2


def test_it_learns_a_disc():
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    centres = torch.rand(24, 2) * 8 + 4
    masks = (((y - centres[:, :1, None]) ** 2 + (x - centres[:, 1:, None]) ** 2) < 9).float()[:, None]
    images = 0.5 * masks + 0.3 * torch.rand(24, 1, 16, 16)
    net = SmallUNet(1, 1, widths=(4, 8))
    optim = torch.optim.AdamW(net.parameters(), lr=0.02)
    for _ in range(40):
        out = net.segmentation_head(net.decoder(net.encoder(images)))
        loss = functional.binary_cross_entropy_with_logits(out, masks)
        optim.zero_grad()
        loss.backward()
        optim.step()
    guess = out > 0
    assert (guess & (masks > 0)).sum() / (guess | (masks > 0)).sum() > 0.9
