"""Files of weights: whole, finite and of one content, or refused."""

import math

import pytest
import torch
from safetensors.torch import save

from kdhpc.errors import NetworkError
from kdhpc.networks.weights import check_content, content_digest, read_content

HERE = {"origin": "w", "remedy": "make others"}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_check_content_refuses_a_number_that_is_none_in_any_precision(dtype, number):
    tensor = torch.arange(10, dtype=dtype)
    check_content(save({"a": tensor, "largest": torch.tensor([torch.finfo(dtype).max], dtype=dtype)}), **HERE)
    tensor[7] = number
    with pytest.raises(NetworkError, match="w holds numbers that are none in 'a', its training diverged: make others"):
        check_content(save({"a": tensor, "b": torch.zeros(2)}), **HERE)


def test_check_content_takes_whole_numbers_and_what_is_empty():
    check_content(save({"a": torch.tensor([-1, 2**62]), "b": torch.zeros(0), "c": torch.tensor([True])}), **HERE)


@pytest.mark.parametrize("cut", [0, 4, 8, 40, -1])
def test_check_content_refuses_what_is_not_whole(cut):
    content = save({"a": torch.zeros(30)})
    with pytest.raises(NetworkError, match="w cannot be read as safetensors") as error:
        check_content(content[:cut], **HERE)
    assert "\n" not in str(error.value)


def test_read_content_of_nothing_says_what_to_give(tmp_path):
    with pytest.raises(NetworkError, match=r"w cannot be read \(No such file or directory\): make others"):
        read_content(tmp_path / "none", **HERE)


def test_content_digest_is_of_all_contents_in_order():
    assert content_digest([b"ab", b"c"]) == content_digest([b"abc"]) != content_digest([b"c", b"ab"])
