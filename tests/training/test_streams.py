"""Streams of one's own, without a GPU: as torch does, a few are handed out in turn."""

import contextlib
import gc
import itertools

import pytest
import torch

from kdhpc.training import streams
from kdhpc.training.streams import NUM_STREAMS, OwnStream, on_streams

CUDA = torch.device("cuda", 0)


class Stream:
    device = CUDA

    def __init__(self, torch, number):
        self.torch, self.stream_id = torch, number

    def wait_stream(self, other):
        self.torch.launched.append(f"{self.stream_id} after {other.stream_id}")


class Streams:
    """torch's streams, of which ``num`` are different, and the current one."""

    def __init__(self, num):
        self.numbers = itertools.cycle(range(num))
        self.launched = []

        self.current = Stream(self, "default")

    def made(self, device):
        return Stream(self, next(self.numbers))

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before


@pytest.fixture
def cuda(monkeypatch, request):
    made = Streams(getattr(request, "param", NUM_STREAMS))
    monkeypatch.setattr(torch.cuda, "Stream", made.made)
    monkeypatch.setattr(torch.cuda, "stream", made.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: made.current)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    streams._free_streams.cache_clear()
    yield made
    streams._free_streams.cache_clear()


@pytest.mark.parametrize("cuda", [NUM_STREAMS, 5], indirect=True)
def test_own_streams_are_all_different_until_there_are_no_more(cuda):
    num_different = len(set(itertools.islice(cuda.numbers, NUM_STREAMS)))
    own = [OwnStream(torch.device("cuda")) for _ in range(num_different)]
    assert len({each.stream.stream_id for each in own}) == num_different
    with pytest.raises(RuntimeError, match="CUDA streams are taken"):
        OwnStream(CUDA)


@pytest.mark.parametrize("circle", [False, True])
def test_own_stream_is_free_again_when_its_owner_is_gone(cuda, circle):
    own = [OwnStream(CUDA) for _ in range(NUM_STREAMS)]
    number = own[7].stream.stream_id
    gone = own.pop(7)
    if circle:
        gone.itself = gone
    gc.disable()
    try:
        del gone
        assert OwnStream(CUDA).stream.stream_id == number
    finally:
        gc.enable()


def test_work_in_line_is_between_what_was_there_and_what_comes_even_where_it_fails(cuda):
    own = OwnStream(CUDA)
    number = own.stream.stream_id

    def fail():
        assert cuda.current is own.stream
        cuda.launched.append("work")
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"), own.in_line():
        fail()
    assert cuda.launched == [f"{number} after default", "work", f"default after {number}"]
    assert cuda.current.stream_id == "default"


def test_on_streams_runs_each_piece_on_its_stream_between_what_was_there_and_what_comes(cuda):
    own = [OwnStream(CUDA) for _ in range(2)]
    first, second = (each.stream.stream_id for each in own)
    assert on_streams(lambda index: (index, cuda.current.stream_id), own) == [(0, first), (1, second)]
    assert cuda.launched == [
        f"{first} after default",
        f"{second} after default",
        f"default after {first}",
        f"default after {second}",
    ]
