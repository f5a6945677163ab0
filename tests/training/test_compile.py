import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch._dynamo.utils import counters

from kdhpc.config.schema import DeviceConfig, NetworkConfig
from kdhpc.graph.spec import Gate
from kdhpc.methods.graph import GraphMethod
from kdhpc.networks.build import build_network
from kdhpc.training.compile import Compiler, Program, combining, programs
from kdhpc.training.device import combines_nodes
from kdhpc.training.runtime import resolve_runtime
from kdhpc.training.schedule import ScheduleStep
from tests.losses.paper_reference import random_graph
from tests.methods.test_graph import learner_of
from tests.training.memory_source import (
    CPU,
    IMAGE_SIZE,
    NETWORK,
    NUM_CLASSES,
    OBJECTIVE,
    MemoryEval,
    MemoryTrain,
    graph_of,
    mutual,
)
from tests.training.test_loop import never
from tests.training.test_packed_resume import training_of as packed_training

# torch's tracing looks at inputs that are no leaves; it hides the warning from users, not from pytest's error filter.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def num_compiled():
    return counters["stats"]["unique_graphs"]


def run_once(learner, *, num_steps=2):
    losses = []
    for step, batch in enumerate(MemoryTrain().epoch(seed=0, epoch=1)):
        if step < num_steps:
            losses.append(learner.step(batch, ScheduleStep(epoch=1, step=step + 1, num_steps=8)))
    return torch.stack(losses), learner.evaluate(MemoryEval())


@pytest.fixture(scope="module")
def compiled():
    """One compiler for the module, as a process has one."""
    torch._dynamo.reset()
    counters.clear()
    yield "aot_eager"
    torch._dynamo.reset()


def test_programs_one_compilation_serves_every_graph_node_seed_and_resume(compiled):
    first = learner_of(mutual(num_nodes=3), backend=compiled)
    run_once(first)
    assert first.programs.mode == "compile"
    after_first = num_compiled()
    assert after_first == 3  # The network in training and in evaluation, and the objective.
    rng = np.random.default_rng(0)
    for seed in range(50):
        learner = learner_of(random_graph(rng, 3), seed=seed, backend=compiled)
        if seed % 10 == 0:
            learner.restore(first.state())
            run_once(learner)
        else:
            run_once(learner, num_steps=1)
    assert num_compiled() == after_first
    assert not counters["recompiles"]
    assert not counters["graph_break"]


def test_programs_one_program_of_all_networks_serves_every_graph_seed_and_resume(compiled):
    first = learner_of(mutual(num_nodes=3), backend=compiled, combines=True)
    run_once(first)
    after_first = num_compiled()
    rng = np.random.default_rng(0)
    for seed in range(12):
        learner = learner_of(random_graph(rng, 3), seed=seed, backend=compiled, combines=True)
        if seed % 4 == 0:
            learner.restore(first.state())
        run_once(learner, num_steps=1)
    first.restart(GraphMethod(graph=random_graph(rng, 3)), seed=1)
    run_once(first)
    assert num_compiled() == after_first
    assert not counters["recompiles"]
    assert first.programs.combines


@pytest.mark.parametrize("seed", range(3))
def test_programs_of_all_networks_learn_as_those_of_each(compiled, seed):
    graph = random_graph(np.random.default_rng(seed), 3)
    each, combined = (learner_of(graph, backend=compiled, combines=combines) for combines in (False, True))
    losses, accuracies = run_once(combined, num_steps=3)
    expected_losses, expected_accuracies = run_once(each, num_steps=3)
    torch.testing.assert_close(losses, expected_losses, rtol=0, atol=1e-6)
    assert accuracies == expected_accuracies
    for ours, theirs in zip(combined.networks, each.networks, strict=True):
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)


def test_programs_with_frozen_nodes_are_those_of_each_network(tmp_path):
    weights = build_network(NETWORK, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE).state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    objective = replace(OBJECTIVE, unlearned="pretrained", pretrained=str(tmp_path / "weights.safetensors"))
    called = []

    def backend(module, inputs):
        called.append(len(inputs))
        return module.forward

    graph = graph_of([[Gate.CUTOFF, Gate.CUTOFF], [Gate.THROUGH, Gate.CUTOFF]], labels=[Gate.CUTOFF, Gate.THROUGH])
    frozen = replace(graph, edges=tuple(replace(edge, gate=Gate.CUTOFF) for edge in graph.edges))
    learner = learner_of(frozen, objective=objective, backend=backend, combines=True)
    run_once(learner, num_steps=1)
    one_network = max(called)
    learner.restart(GraphMethod(graph=graph), seed=0)
    run_once(learner, num_steps=1)
    assert max(called) > 1.8 * one_network  # Now both are a program.


def test_program_that_cannot_be_combined_is_compiled_without(caplog):
    broken = []

    def backend(module, inputs):
        if not broken:
            broken.append(module)
            raise RuntimeError("too many arguments\nand more")
        return module.forward

    learner = learner_of(mutual(), backend=backend, combines=True)
    with caplog.at_level(logging.WARNING):
        run_once(learner)
    assert learner.programs.mode == "compile"
    assert not learner.programs.combines
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("kdhpc")]
    assert message.endswith("(device.combine=false does not try more): RuntimeError: too many arguments")


def test_combining_asks_only_for_what_this_torch_has():
    torch.compile(lambda values: values + 1, options=combining())  # Refuses names that it does not know.
    assert combining()["combo_kernels"] is True


@pytest.mark.parametrize(
    ("device", "changes", "combines"),
    [
        ("cuda", {}, True),
        ("cuda", {"combine": False}, False),
        ("cuda", {"node_streams": True}, False),
        ("cpu", {}, False),
    ],
)
def test_nodes_are_combined_where_launches_cost(device, changes, combines):
    assert combines_nodes(DeviceConfig(**changes), torch.device(device)) is combines


def test_cudnn_tries_its_algorithms_only_where_it_is_told_to(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    for told in (True, False):
        resolve_runtime(DeviceConfig(device="cpu", cudnn_benchmark=told)).enforce()
        assert torch.backends.cudnn.benchmark is told


@pytest.mark.parametrize("seed", range(3))
def test_programs_compiled_and_eager_steps_agree(compiled, seed):
    graph = random_graph(np.random.default_rng(seed), 3)
    eager, fast = learner_of(graph), learner_of(graph, backend=compiled)
    eager_losses, eager_accuracies = run_once(eager, num_steps=3)
    losses, accuracies = run_once(fast, num_steps=3)
    torch.testing.assert_close(losses, eager_losses, rtol=1e-4, atol=1e-5)
    assert accuracies == eager_accuracies
    for ours, theirs in zip(fast.networks, eager.networks, strict=True):
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", ["resnet8", "abn_resnet8"])
def test_programs_compiled_backward_passes_are_outside_of_autocast_as_eager_ones(compiled, name):
    """Within it, products for a classifier's gradient would be of bf16 numbers: another gradient than eager's."""
    device, network = replace(CPU, precision="bf16"), NetworkConfig(name=name, crops=(3,))
    eager, fast = (
        learner_of(mutual(), network=network, device=device, backend=backend) for backend in (None, compiled)
    )
    batch = next(iter(MemoryTrain().epoch(seed=0, epoch=1)))
    for learner in (eager, fast):
        learner.step(batch, ScheduleStep(epoch=1, step=1, num_steps=8))
    for ours, theirs in zip(fast.state(), eager.state(), strict=True):
        for key, momentum in ours.momentum.items():
            assert torch.equal(momentum, theirs.momentum[key]), key


def test_programs_compiled_unlearned_node_keeps_its_weights(compiled):
    learner = learner_of(mutual(gate=Gate.CUTOFF, label=Gate.CUTOFF, num_nodes=3), backend=compiled)
    before = [parameter.detach().clone() for network in learner.networks for parameter in network.parameters()]
    run_once(learner)
    after = [parameter for network in learner.networks for parameter in network.parameters()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_programs_of_one_backend_are_shared_by_the_process():
    assert programs(None) is programs(None)
    assert programs(None) is not programs("aot_eager")


def broken_backend(module, inputs):
    raise RuntimeError("No working C++ compiler found\nand more")


def test_program_failing_compiler_falls_back_and_says_so_once(caplog):
    compiler = Compiler(broken_backend)
    calls = []

    def double(values):
        calls.append(len(values))
        return values * 2

    def triple(values):
        return values * 3

    doubled, tripled = Program(double, compiler), Program(triple, compiler)
    with caplog.at_level(logging.WARNING):
        assert doubled(torch.ones(2)).tolist() == [2, 2]
        assert doubled(torch.ones(2)).tolist() == [2, 2]
        assert tripled(torch.ones(2)).tolist() == [3, 3]
    assert compiler.mode == "eager"
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("kdhpc")]
    assert len(messages) == 1
    assert messages[0].endswith("RuntimeError: No working C++ compiler found")


def test_program_error_of_the_function_itself_is_not_taken_for_the_compilers():
    compiler = Compiler(None)
    with pytest.raises(RuntimeError, match="shape"):
        Program(lambda values: values.view(7), compiler)(torch.ones(2))


@pytest.mark.parametrize("augmentation", ["pad_crop", "resized_crop"])
def test_batches_compiled_and_as_written_agree(compiled, augmentation):
    plain, fast = packed_training(augmentation), packed_training(augmentation, programs(None, batch_backend=compiled))
    specs = list(plain._train.specs(seed=0, epoch=1))
    before = num_compiled()
    for spec in specs:
        expected = plain._train.make(spec)
        found = fast._learner.programs.batch(fast._train, spec)
        torch.testing.assert_close(found.images, expected.images, rtol=1e-5, atol=1e-6)
        assert found.images.stride() == expected.images.stride()
        assert torch.equal(found.labels, expected.labels)
    assert num_compiled() == before + 1
    reports = [list(training.epochs(never)) for training in (plain, fast)]
    assert reports[0][-1].train_losses == pytest.approx(reports[1][-1].train_losses, rel=1e-4)


def test_batches_that_cannot_be_compiled_leave_the_networks_compiled(caplog):
    training = packed_training("pad_crop", programs("aot_eager", batch_backend=broken_backend))
    with caplog.at_level(logging.WARNING):
        next(training.steps())
    assert training.mode == "compile"
    (message,) = [record.getMessage() for record in caplog.records if record.name.startswith("kdhpc")]
    assert "No working C++ compiler found" in message
