"""The four elementary losses, per sample, for all ordered pairs of nodes at once.

Dimension suffixes: see ``coefficients.py``. The source side must be detached: only targets get gradients.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_NORM_FLOOR = 1e-12
"""Smallest norm that ``F.normalize`` divides by."""
_SMALLEST_SQUARE = 2e-15
"""Squared distances of unit vectors up to this count as 0: rounding of float64, or of a float32 map's last bit."""


class PairLosses(NamedTuple):
    """For all pairs, the loss that brings them closer and the loss that drives them apart; None: not asked for."""

    closer_NST: Tensor | None
    """(N, S, T)."""
    apart_NST: Tensor | None
    """(N, S, T)."""


def probability_losses(
    source_log_NSC: Tensor, target_log_NTC: Tensor, *, closer: bool = True, apart: bool = True
) -> PairLosses:
    """KL(p_s || p_t), in nats, brings closer; the cosine of p_s and p_t drives apart.

    The divergence is sum_c p_s log p_s - sum_c p_s log p_t. Its sums over classes are matrix products.

    Args:
        source_log_NSC: (N, S, C) log-probabilities of the sources, finite, detached.
        target_log_NTC: (N, T, C) log-probabilities of the targets.
        closer: Whether to compute the divergence.
        apart: Whether to compute the cosine.

    Returns:
        Losses of 0 or more, (N, S, T). Those that are not asked for are None.

    Source: paper Eq. 3-5.
    """
    source_NSC = source_log_NSC.exp()
    closer_NST = apart_NST = None
    if closer:
        negative_entropy_NS1 = (source_NSC * source_log_NSC).sum(dim=2, keepdim=True)
        closer_NST = torch.baddbmm(negative_entropy_NS1, source_NSC, target_log_NTC.mT, alpha=-1)
    if apart:
        apart_NST = torch.bmm(F.normalize(source_NSC, dim=2), F.normalize(target_log_NTC.exp(), dim=2).mT)
    return PairLosses(closer_NST, apart_NST)


class CropWindows(NamedTuple):
    """The crop windows around every pixel, as masks of rows and columns: 1 inside of a window, 0 outside.

    The pixel is where a source's attention map is highest.
    """

    rows_PKH: Tensor
    """(P, K, H): which rows the K windows around each pixel cover."""
    columns_PKW: Tensor
    """(P, K, W): which columns the K windows around each pixel cover."""
    pixel_weight_K: Tensor
    """(K,): weight of a pixel in Eq. 6, 1 / crop area (``mean``) or 1 (``sum``), divided by the number of crops."""


def crop_windows(
    crops: tuple[int, ...],
    *,
    height: int,
    width: int,
    reduction: Literal["mean", "sum"],
    device: torch.device | str,
    dtype: torch.dtype,
) -> CropWindows:
    """The windows of all crop sizes around each pixel of a map.

    A window is centred on its pixel; at the border of the map it is shifted to lie inside. In a window of even side the
    pixel is right of and below the middle.

    Args:
        crops: K sides of square windows in pixels, none larger than the map.
        height: H of the map, in pixels.
        width: W of the map, in pixels.
        reduction: How Eq. 6 reduces the pixels of a crop: ``mean`` as in the authors' code, ``sum`` as in the paper.
        device: Device of the tensors.
        dtype: Type of the tensors: that of the maps that will be compared.
    """
    assert max(crops) <= min(height, width), f"crops {crops} on a {height}x{width} map"
    pixels = torch.arange(height * width)
    pixel_weight = [(1 / side**2 if reduction == "mean" else 1.0) / len(crops) for side in crops]
    return CropWindows(
        rows_PKH=_spans(pixels // width, crops, height).to(device, dtype),
        columns_PKW=_spans(pixels % width, crops, width).to(device, dtype),
        pixel_weight_K=torch.tensor(pixel_weight, dtype=dtype, device=device),
    )


def _spans(centres_P: Tensor, crops: tuple[int, ...], length: int) -> Tensor:
    """(P, K, length): which places of a row or column are within each crop around each centre."""
    places = torch.arange(length)
    spans = []
    for side in crops:
        first_P1 = (centres_P - side // 2).clamp(0, length - side).unsqueeze(1)
        spans.append((places >= first_P1) & (places < first_P1 + side))
    return torch.stack(spans, dim=1)


def attention_losses(
    source_NSP: Tensor,
    target_NTP: Tensor,
    peak_NS: Tensor,
    windows: CropWindows,
    *,
    closer: bool = True,
    apart: bool = True,
) -> PairLosses:
    """Squared distance (brings closer) and cosine (drives apart) of crops of both maps around the source's peak.

    Crops are L2-normalised, and both losses are averaged over the crop sizes. The squared distance is also reduced over
    the pixels, see `crop_windows`.

    No crop is cut out. With masks that are 1 inside of a window and 0 outside, the norms and inner products of all
    crops are matrix products. The squared distance of two unit vectors is 2 - 2 cos. A crop of norm 0 stays 0, as with
    ``F.normalize``.

    All of this is computed in float64. Where two crops are nearly equal, 2 - 2 cos and the gradients of both losses are
    small differences of numbers near 1, and float32 would leave few digits of them. Maps that are equal up to a factor
    have a distance of exactly 0.

    Args:
        source_NSP: (N, S, P) attention maps of the sources, rows and columns flattened; finite, detached.
        target_NTP: (N, T, P) attention maps of the targets.
        peak_NS: (N, S) index of the pixel where each source's map is highest, 0 to P - 1.
        windows: The windows for maps of this size.
        closer: Whether to compute the squared distance.
        apart: Whether to compute the cosine.

    Returns:
        Losses (N, S, T) in the dtype of the target's maps. Those that are not asked for are None.

    Source: paper Eq. 6-7.
    """
    dtype = target_NTP.dtype
    source_NSP, target_NTP = source_NSP.double(), target_NTP.double()
    num_samples, num_nodes, num_pixels = source_NSP.shape
    num_crops = windows.pixel_weight_K.shape[0]
    # On a CPU `index_select` is twice as fast as indexing with [peak_NS], or more.
    peaks = peak_NS.flatten()
    rows, columns = windows.rows_PKH.index_select(0, peaks), windows.columns_PKW.index_select(0, peaks)
    window_NSKHW = rows.double().unsqueeze(3) * columns.double().unsqueeze(2)
    window_NSKP = window_NSKHW.view(num_samples, num_nodes, num_crops, num_pixels)
    crop_NSKP = window_NSKP * source_NSP.unsqueeze(2)

    target_NPT = target_NTP.mT
    each_crop, all_pairs = (num_samples, -1, num_pixels), (num_samples, num_nodes, num_crops, num_nodes)
    product_NSKT = torch.bmm(crop_NSKP.view(each_crop), target_NPT).view(all_pairs)
    # Products with themselves, as `square` goes through `pow`, which is many times slower on a CPU.
    target_power_NSKT = torch.bmm(window_NSKP.view(each_crop), target_NPT * target_NPT).view(all_pairs)
    source_norm_NSK1 = torch.linalg.vector_norm(crop_NSKP, dim=3, keepdim=True)
    divisor_NSK1 = source_norm_NSK1.clamp_min(_NORM_FLOOR)

    cosine_NSKT = product_NSKT / divisor_NSK1 * _inverse_norm(target_power_NSKT)
    closer_NST = None
    if closer:
        unit_norm_NSK1 = source_norm_NSK1 / divisor_NSK1  # 1, but less where the norm is below the floor.
        unit_powers_NSKT = unit_norm_NSK1 * unit_norm_NSK1 + _unit_power(target_power_NSKT)
        squared_NSKT = F.threshold(torch.sub(unit_powers_NSKT, cosine_NSKT, alpha=2), _SMALLEST_SQUARE, 0)
        closer_NST = (squared_NSKT * windows.pixel_weight_K.unsqueeze(1)).sum(dim=2).to(dtype)
    return PairLosses(closer_NST, cosine_NSKT.mean(dim=2).to(dtype) if apart else None)


def _inverse_norm(power: Tensor) -> Tensor:
    """1 / max(norm, 1e-12), from the squared norm. Clamped before the root, whose slope at 0 is infinite."""
    return power.clamp_min(_NORM_FLOOR**2).rsqrt()


def _unit_power(power: Tensor) -> Tensor:
    """Squared norm of a normalised crop: 1, but less where the norm is below the floor."""
    return (power / _NORM_FLOOR**2).clamp_max(1)
