import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdhpc.losses.distillation import attention_losses, crop_windows, probability_losses
from tests.losses import paper_reference


def random_logits(seed, *, scale=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(4, 3, 7, generator=generator, dtype=dtype)  # (N, M, C)


def random_maps(seed, *, side=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(4, 3, side, side, generator=generator, dtype=dtype)  # (N, M, H, W)


def windows_for(crops, side, *, reduction="mean", dtype=torch.float64):
    return crop_windows(crops, height=side, width=side, reduction=reduction, device="cpu", dtype=dtype)


def losses_of_maps(maps, crops, *, reduction="mean", targets=None):
    flat = maps.flatten(2)
    windows = windows_for(crops, maps.shape[-1], reduction=reduction, dtype=maps.dtype)
    return attention_losses(flat, flat if targets is None else targets.flatten(2), flat.argmax(dim=2), windows)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_probability_losses_all_pairs_match_the_equations(dtype, tolerance, scale):
    logits = random_logits(0, scale=scale)
    log_NMC = F.log_softmax(logits.to(dtype), dim=2)
    pairs = probability_losses(log_NMC, log_NMC)
    for n in range(4):
        for s in range(3):
            for t in range(3):
                p_s = paper_reference.softmax(logits[n, s].numpy())
                p_t = paper_reference.softmax(logits[n, t].numpy())
                np.testing.assert_allclose(
                    pairs.closer_NST[n, s, t], paper_reference.kl(p_s, p_t), rtol=tolerance, atol=tolerance
                )
                np.testing.assert_allclose(
                    pairs.apart_NST[n, s, t], paper_reference.cosine(p_s, p_t), rtol=tolerance, atol=tolerance
                )


def test_probability_losses_kl_agrees_with_small_constant_inside_the_logarithm():
    logits = random_logits(1, scale=2.0)
    log_NMC = F.log_softmax(logits, dim=2)
    p = log_NMC.exp()
    p_NS1C, p_N1TC = p.unsqueeze(2), p.unsqueeze(1)
    published = (p_NS1C * ((p_NS1C + 1e-10).log() - (p_N1TC + 1e-10).log())).sum(dim=3)
    torch.testing.assert_close(probability_losses(log_NMC, log_NMC).closer_NST, published, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("side", "crops"), [(8, (3, 5, 7)), (7, (3, 5, 7)), (14, (3, 7, 11)), (8, (8,)), (6, (2, 4))])
def test_attention_losses_all_pairs_match_the_equations(dtype, tolerance, reduction, side, crops):
    maps = random_maps(2, side=side)
    pairs = losses_of_maps(maps.to(dtype), crops, reduction=reduction)
    for n in range(4):
        for s in range(3):
            for t in range(3):
                source, target = maps[n, s].numpy(), maps[n, t].numpy()
                closer = paper_reference.attention_closer(source, target, crops, reduction)
                apart = paper_reference.attention_apart(source, target, crops)
                np.testing.assert_allclose(pairs.closer_NST[n, s, t], closer, rtol=tolerance, atol=tolerance)
                np.testing.assert_allclose(pairs.apart_NST[n, s, t], apart, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("row", "column", "top", "left"),
    [(0, 0, 0, 0), (0, 4, 0, 2), (7, 7, 3, 3), (7, 1, 3, 0), (4, 4, 2, 2), (1, 6, 0, 3), (2, 5, 0, 3)],
)
def test_crop_windows_at_a_border_are_shifted_inside(row, column, top, left):
    windows = windows_for((5,), 8)
    rows, columns = windows.rows_PKH[row * 8 + column, 0], windows.columns_PKW[row * 8 + column, 0]
    assert rows.nonzero().flatten().tolist() == list(range(top, top + 5))
    assert columns.nonzero().flatten().tolist() == list(range(left, left + 5))


def test_crop_windows_of_the_whole_map_are_the_same_everywhere():
    windows = windows_for((8,), 8)
    assert windows.rows_PKH.min() == 1
    assert windows.columns_PKW.min() == 1


def test_crop_windows_on_a_map_that_is_not_square_use_its_own_rows_and_columns():
    windows = crop_windows((3,), height=4, width=6, reduction="mean", device="cpu", dtype=torch.float64)
    peak = 3 * 6 + 5  # Bottom right.
    assert windows.rows_PKH[peak, 0].tolist() == [0, 1, 1, 1]
    assert windows.columns_PKW[peak, 0].tolist() == [0, 0, 0, 1, 1, 1]


def with_empty_crop():
    """Pair 0 -> 1: the source peaks top left, where the target is zero."""
    maps = random_maps(3)
    maps[:, 0] = 0
    maps[:, 0, 1, 1] = 1
    maps[:, 1, :5, :5] = 0
    maps[:, 2] = 0  # A map that is zero everywhere.
    return maps


def test_attention_losses_crops_of_zeros_are_normalised_as_torch_does():
    maps = with_empty_crop()
    pairs = losses_of_maps(maps, (3, 5), reduction="sum")
    for n in range(4):
        for s in range(3):
            for t in range(3):
                source, target = maps[n, s].numpy(), maps[n, t].numpy()
                closer = paper_reference.attention_closer(source, target, (3, 5), "sum")
                np.testing.assert_allclose(pairs.closer_NST[n, s, t], closer, atol=1e-10)
    assert pairs.closer_NST[0, 0, 1] == pytest.approx(1.0)  # A unit vector against zeros.
    assert pairs.closer_NST[0, 2, 2] == 0.0
    assert pairs.apart_NST[0, 0, 1] == 0.0


@pytest.mark.parametrize("faint", [0.0, 1e-14, 1e-13, 1e-10])
def test_attention_losses_gradient_at_faint_crops_is_that_of_torch_normalize(faint):
    maps = with_empty_crop()
    maps[:, 1, :5, :5] = faint * torch.rand(5, 5, dtype=torch.float64)
    ours = maps.clone().requires_grad_()
    pairs = losses_of_maps(maps, (3,), reduction="sum", targets=ours)
    (pairs.closer_NST[:, 0, 1].sum() + 0.5 * pairs.apart_NST[:, 0, 1].sum()).backward()

    theirs = maps.clone().requires_grad_()
    q_s = F.normalize(maps[:, 0, :3, :3].flatten(1), dim=1)
    q_t = F.normalize(theirs[:, 1, :3, :3].flatten(1), dim=1)
    (((q_s - q_t) ** 2).sum() + 0.5 * (q_s * q_t).sum()).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_losses_gradient_of_zero_maps_is_finite(dtype):
    maps = torch.zeros(2, 2, 8, 8, dtype=dtype, requires_grad=True)
    pairs = losses_of_maps(maps.detach(), (3, 5), targets=maps)
    (pairs.closer_NST.sum() + pairs.apart_NST.sum()).backward()
    assert torch.equal(maps.grad, torch.zeros_like(maps))


@pytest.mark.parametrize("factor", [1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_losses_of_equal_maps_are_exactly_zero_and_pull_nowhere(dtype, factor):
    """Eq. 6 as ``F.normalize`` has it; 2 - 2 cos in float32 gave -1e-9 here."""
    maps = random_maps(3, dtype=dtype)
    targets = (factor * maps[:, :1]).expand_as(maps).clone().requires_grad_()
    pairs = losses_of_maps(maps[:, :1].expand_as(maps), (3, 5, 7), targets=targets)
    assert torch.equal(pairs.closer_NST, torch.zeros_like(pairs.closer_NST))
    torch.testing.assert_close(pairs.apart_NST, torch.ones_like(pairs.apart_NST), rtol=0, atol=1e-7)
    pairs.closer_NST.sum().backward()
    assert torch.equal(targets.grad, torch.zeros_like(targets))


@pytest.mark.parametrize("distance", [1e-6, 1e-4, 1e-2])
def test_attention_losses_keep_their_digits_near_equality(distance):
    """Values and gradients of float32 maps are those of torch's normalize in float64, to float32's rounding."""
    maps = random_maps(4, dtype=torch.float32)[:, :2]
    maps[:, 1] = maps[:, 0] * (1 + distance * random_maps(5, dtype=torch.float32)[:, 0])
    ours, theirs = maps.clone().requires_grad_(), maps.double().requires_grad_()
    found = losses_of_maps(maps, (8,), reduction="sum", targets=ours)
    q_s, q_t = (F.normalize(each[:, node].flatten(1), dim=1) for node, each in enumerate((maps.double(), theirs)))
    expected = ((q_s - q_t) ** 2).sum(dim=1), (q_s * q_t).sum(dim=1)
    for loss_NST, loss_N in zip(found, expected, strict=True):
        assert (loss_NST >= 0).all()
        torch.testing.assert_close(loss_NST[:, 0, 1].double(), loss_N, rtol=1e-6, atol=2e-15)
        (ours_grad,) = torch.autograd.grad(loss_NST[:, 0, 1].sum(), ours, retain_graph=True)
        (theirs_grad,) = torch.autograd.grad(loss_N.sum(), theirs, retain_graph=True)
        torch.testing.assert_close(ours_grad.double(), theirs_grad, rtol=1e-5, atol=1e-5 * theirs_grad.abs().max())


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_attention_losses_of_a_target_that_is_not_finite_are_none(broken):
    maps = random_maps(6, dtype=torch.float32)
    targets = maps.clone()
    targets[0, 1, 4, 4] = broken
    closer_NST, apart_NST = losses_of_maps(maps, (8,), targets=targets)
    assert not closer_NST[0, :, 1].isfinite().any()
    assert not apart_NST[0, :, 1].isfinite().any()
    assert closer_NST[1:].isfinite().all()
