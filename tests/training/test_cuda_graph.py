"""Captures that fail, with everything but the GPU: graphs and an allocator that keep count as torch's do.

By reading torch's source: 2.11 to 2.13 leave a capture that was invalidated half ended, 2.14 ends it.
"""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch

from kdhpc.errors import CaptureError
from kdhpc.training import cuda_graph
from kdhpc.training.cuda_graph import record_cuda_graph

OLD, NEW = "2.11", "2.14"


class Torch:
    """What torch knows of captures and their memory."""

    def __init__(self, version):
        self.version = version
        self.underway = set()
        self.users = {}
        self.capturing = None
        self.num_graphs = 0
        self.is_valid = True
        self.is_alive = True
        self.begin_error = self.end_error = None
        self.can_end = True
        self.aborts = 0

    def synchronize(self):
        if not self.is_alive:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def end_allocation(self, device, pool):
        if not self.can_end:
            raise RuntimeError("this torch cannot")
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def release(self, device, pool):
        self.users[pool] -= 1
        assert self.users[pool] >= 0

    def empty_cache(self):
        if self.underway:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")


def fakes_of(world):
    class Graph:
        def __init__(self):
            self.pool = None
            self.ended = False
            world.num_graphs += 1

        def capture_begin(self, pool=None, **options):
            assert options["capture_error_mode"] == "thread_local"
            self.pool = pool or (world.num_graphs, 0)
            world.users[self.pool] = world.users.get(self.pool, 0) + 1
            assert self.pool not in world.underway
            world.underway.add(self.pool)
            error, world.begin_error = world.begin_error, None
            if error is not None:
                raise error
            world.capturing, world.is_valid = self, True

        def capture_end(self):
            assert world.capturing is self
            world.capturing = None
            if not world.is_valid and world.version == OLD:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
            world.underway.remove(self.pool)
            if not world.is_valid:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
            self.ended = True
            error, world.end_error = world.end_error, None
            if error is not None:
                raise error

        def replay(self):
            assert self.ended

        def reset(self):
            if self.pool is None or (world.version == OLD and not self.ended):
                return
            world.underway.discard(self.pool)
            world.release(0, self.pool)
            self.pool, self.ended = None, False

        __del__ = reset

    class Pool:
        def __init__(self):
            self.id = (0, len(world.users) + 1)
            world.users[self.id] = 1

        def use_count(self):
            return world.users[self.id]

        def __del__(self):
            world.release(0, self.id)
            world.aborts += bool(world.users[self.id] == 0 and (world.underway or not world.is_alive))

    return Graph, Pool


@pytest.fixture(params=[OLD, NEW])
def world(request, monkeypatch):
    world, zeros = Torch(request.param), torch.zeros
    graph, pool = fakes_of(world)
    for name, fake in {
        "CUDAGraph": graph,
        "MemPool": pool,
        "current_stream": lambda device=None: SimpleNamespace(),
        "current_device": lambda: 0,
        "synchronize": world.synchronize,
        "empty_cache": world.empty_cache,
        "is_current_stream_capturing": lambda: world.capturing is not None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", world.end_allocation)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", world.release)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: zeros(*size))
    monkeypatch.setattr(cuda_graph, "_failed_graphs", [])
    yield world
    cuda_graph._failed_graphs.clear()
    gc.collect()


def is_clean(world):
    """Nothing is underway, and nobody uses any pool."""
    gc.collect()
    return not world.underway and world.capturing is None and not any(world.users.values()) and not world.aborts


def test_record_collects_garbage_before_and_none_meanwhile(world):
    class Node:
        pass

    def circle():
        node = Node()
        node.itself = node
        return weakref.ref(node)

    seen = {}
    before = circle()

    def step():
        seen.update(before=before(), collects=gc.isenabled())
        return torch.ones(1)

    replay = record_cuda_graph(step)
    assert seen == {"before": None, "collects": False}
    assert gc.isenabled()
    assert torch.equal(replay(), torch.ones(1))


def test_record_gives_its_memory_back_with_the_replay(world):
    replay = record_cuda_graph(lambda: torch.ones(1))
    assert sum(world.users.values()) == 1  # The graph's own.
    del replay
    assert is_clean(world)


def raises(world):
    raise ValueError("a bug")


def invalidates(world):
    world.is_valid = False
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


def invalidates_unseen(world):
    world.is_valid = False
    return torch.ones(1)


def ends_memory(world):
    world.is_valid = False
    raise torch.OutOfMemoryError("CUDA out of memory")


def is_interrupted(world):
    raise KeyboardInterrupt


def cannot_begin(world):
    world.begin_error = RuntimeError("cannot begin")


def cannot_instantiate(world):
    world.end_error = RuntimeError("cannot instantiate")


def fail(world, how):
    """Record what fails in that way; returns the error and the one that it came with."""
    if how in (cannot_begin, cannot_instantiate):
        how(world)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        record_cuda_graph(lambda: how(world))
    error = caught.value
    return type(error), type(error.__context__)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (raises, (ValueError, type(None))),
        (invalidates, (RuntimeError, RuntimeError)),
        (invalidates_unseen, (RuntimeError, type(None))),
        (ends_memory, (RuntimeError, torch.OutOfMemoryError)),
        (is_interrupted, (KeyboardInterrupt, type(None))),
        (cannot_begin, (RuntimeError, type(None))),
        (cannot_instantiate, (RuntimeError, type(None))),
    ],
)
def test_record_that_fails_leaves_the_process_as_it_was(world, how, expected):
    assert fail(world, how) == expected
    assert gc.isenabled()
    assert is_clean(world)
    record_cuda_graph(lambda: torch.ones(1))()
    assert is_clean(world)


def test_record_that_fails_keeps_the_graph_that_torch_may_ask(world):
    fail(world, invalidates)
    assert len(cuda_graph._failed_graphs) == 1


def test_record_that_fails_on_a_full_device_is_no_broken_process(world, monkeypatch):
    def fills(world):
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: ends_memory(world))
        return ends_memory(world)

    assert fail(world, fills) == (RuntimeError, torch.OutOfMemoryError)


def test_record_after_an_error_of_the_device_has_begun_nothing(world):
    world.is_alive = False
    with pytest.raises(RuntimeError, match="illegal memory access"):
        record_cuda_graph(lambda: torch.ones(1))
    assert not world.users


def dies(world):
    world.is_alive = world.is_valid = False
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def cannot_be_ended(world):
    world.can_end = world.is_valid = False
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")


@pytest.mark.parametrize(("how", "versions"), [(dies, (OLD, NEW)), (cannot_be_ended, (OLD,))])
def test_record_that_cannot_be_undone_says_that_the_process_is_lost(world, how, versions):
    if world.version not in versions:
        pytest.skip("this torch ends it by itself")
    with pytest.raises(
        CaptureError, match=r"(?s)^recording a CUDA graph failed \(RuntimeError: CUDA error: .*start it"
    ):
        record_cuda_graph(lambda: how(world))
    gc.collect()
    assert world.aborts == 0  # As the destructor of the pool would.
