import pytest
import torch
from torchvision.transforms import v2

from kdhpc.data import operations
from kdhpc.data.crops import seeded
from kdhpc.data.operations import Operation, operate
from kdhpc.data.policies import RAND_AUGMENT, TRIVIAL_AUGMENT_WIDE, draw_operations
from tests.data.trees import noise, smooth

POLICIES = {v2.RandAugment: RAND_AUGMENT, v2.TrivialAugmentWide: TRIVIAL_AUGMENT_WIDE}
NAMES = {operation: "".join(part.capitalize() for part in operation.name.split("_")) for operation in Operation}
FILL = {torch.Tensor: None}


def _images(num: int, side: int, channels: int) -> torch.Tensor:
    """Noise, and every second one smooth."""
    images = torch.from_numpy(noise(side, num, side, side, channels)).permute(0, 3, 1, 2).contiguous()
    images[1::2] = torch.from_numpy(smooth(1, side, side)[..., :channels].copy()).permute(2, 0, 1)
    return images


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize(("side", "channels"), [(32, 3), (33, 1)])
def test_operate_is_torchvisions_at_every_strength(kind: type, operation: Operation, side: int, channels: int) -> None:
    """But for rounding: a grey level, or a pixel in a thousand that lies between two."""
    strengths_of, is_signed = POLICIES[kind][operation]
    theirs_of, theirs_signed = kind._AUGMENTATION_SPACE[NAMES[operation]]
    theirs = theirs_of(31, side, side)
    assert (strengths_of is None, is_signed) == (theirs is None, theirs_signed)
    strengths = torch.zeros(31) if strengths_of is None else strengths_of(side)
    assert theirs is None or torch.equal(strengths, theirs.float())
    strengths = torch.cat([strengths, -strengths]) if is_signed else strengths
    images, transform = _images(len(strengths), side, channels), kind()

    found = operate(images, torch.full_like(strengths, float(operation)), strengths)

    options = {"interpolation": v2.InterpolationMode.NEAREST, "fill": FILL}
    expected = torch.stack(
        [
            transform._apply_image_or_video_transform(image, NAMES[operation], strength, **options)
            for image, strength in zip(images, strengths.tolist(), strict=True)
        ]
    )
    difference = (found.int() - expected.int()).abs()
    if operation in (Operation.COLOR, Operation.CONTRAST, Operation.SHARPNESS):
        assert difference.max() <= 1
        assert difference.float().mean() < 0.05
    else:
        assert (difference != 0).float().mean() <= (0.005 if operation in MOVES else 0)


MOVES = (Operation.SHEAR_X, Operation.SHEAR_Y, Operation.ROTATE)


def _drawn(num: int) -> torch.Tensor:
    return draw_operations(num, 1, TRIVIAL_AUGMENT_WIDE, None, 20, seeded("operations"))[:, 0].T


def test_operate_result_does_not_depend_on_the_batch() -> None:
    images, drawn = _images(60, 20, 3), _drawn(60)

    whole = operate(images, *drawn)

    assert set(drawn[0].tolist()) == set(map(float, Operation))
    for size in (1, 7):
        pieces = zip(images.split(size), *(row.split(size) for row in drawn), strict=True)
        parts = [operate(*piece) for piece in pieces]
        assert torch.equal(torch.cat(parts), whole)


def test_operate_as_a_device_does_it_is_the_same_and_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    images, drawn = _images(60, 20, 3), _drawn(60)
    expected = operate(images, *drawn)

    monkeypatch.setattr(operations, "_look_up", operations._change_all)

    assert torch.equal(operate(images, *drawn), expected)
    compiled = torch.compile(operate, backend="eager", fullgraph=True, dynamic=False)
    assert torch.equal(compiled(images, *drawn), expected)


def test_draw_operations_are_all_as_likely_with_both_signs_and_one_magnitude() -> None:
    drawn = draw_operations(14000, 2, RAND_AUGMENT, 9, 32, seeded("draw"))

    assert drawn.shape == (14000, 2, 2)
    for column in (0, 1):
        counts = drawn[:, column, 0].long().bincount(minlength=14)
        assert counts.min() > 900
        assert counts.max() < 1100
    rotations = drawn[drawn[..., 0] == Operation.ROTATE][:, 1]
    assert set(rotations.tolist()) == {9.0, -9.0}
    assert 0.4 < (rotations > 0).float().mean() < 0.6
    assert set(drawn[drawn[..., 0] == Operation.POSTERIZE][:, 1].tolist()) == {7.0}
