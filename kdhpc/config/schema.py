"""What can be configured: one frozen dataclass a group of ``configs/``, with the same name.

Values are checked where they arrive: a config that exists is a config that can be run.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kdhpc.config.goals import DEFAULT_GOAL, GoalName
from kdhpc.config.networks import NETWORKS, is_place
from kdhpc.config.paths import OWN_FOLDERS
from kdhpc.errors import ConfigError, nearest
from kdhpc.graph.spec import BUILT_IN_DESIGNS, BUILT_IN_GATES, MOST_NODES, Design, Gate


def _require(condition: bool, key: str, value: object, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"{key}={value} is not allowed: {allowed}")


def _finite(
    group: str, config: "DatasetConfig | TrainingConfig | WorkerConfig | ClusterConfig | RunConfig | TrackingConfig"
) -> None:
    """Refuse infinities and NaN, which some of the comparisons below would let pass."""
    for field in dataclasses.fields(config):
        value: object = getattr(config, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            is_none = isinstance(number, float) and not math.isfinite(number)
            _require(not is_none, f"{group}.{field.name}", value, "a finite number")


def _positive(group: str, **values: float) -> None:
    for key, value in values.items():
        _require(value > 0, f"{group}.{key}", value, "a number above 0")


AUGMENTATIONS = ("RandAugment", "TrivialAugmentWide", "RandomErasing")
"""What ``dataset.augmentations`` may name: classes of ``torchvision.transforms.v2``."""
MOST_TRIALS = 1_000_000
"""Each has a row in the database from the study's first moment."""
_OF_TWO_LABELS = ("mixup", "cutmix")


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """A packed data set, how the search divides its training half, and how its images are augmented."""

    name: str
    """Folder of the packed form, as given to ``kdhpc data prepare``."""
    image_size: int
    """Side of the square that the networks see, in pixels."""
    augmentation: Literal["pad_crop", "resized_crop"]
    """``pad_crop``: pad, crop, flip (CIFAR). ``resized_crop``: crop of random area, resize, flip (fine-grained)."""
    validation_fraction: float
    """Share of the training images that the search keeps to score graphs, taken by class."""
    pad: int = 4
    """``pad_crop``: border on each side, in pixels."""
    padding_mode: Literal["constant", "edge", "reflect", "symmetric"] = "constant"
    """``pad_crop``: what the border shows, by torchvision's names. ``constant``: black. ``edge``: the outermost pixels.
    ``reflect``, ``symmetric``: the image mirrored at them, without and with the outermost ones repeated."""
    flip: bool = True
    """Flip left-right with probability 1/2."""
    scale: tuple[float, float] = (0.08, 1.0)
    """``resized_crop``: range of the crop's share of the image's area."""
    ratio: tuple[float, float] = (1.0, 1.3)
    """``resized_crop``: range of the crop's width / height."""
    resize: int = 256
    """``resized_crop``, testing: short side before the centre crop, in pixels."""
    augmentations: tuple[str, ...] = ()
    """Further random changes of training images, by torchvision's names. ``RandAugment`` or ``TrivialAugmentWide``:
    after crop and flip. ``RandomErasing``: after normalisation."""
    rand_augment_num_ops: int = 2
    """``RandAugment``: operations on each image, one after the other."""
    rand_augment_magnitude: int = 9
    """``RandAugment``: how strong they are, 0 to 30."""
    random_erasing_p: float = 0.5
    """``RandomErasing``: the share of images of which a rectangle is erased."""
    random_erasing_scale: tuple[float, float] = (0.02, 0.33)
    """``RandomErasing``: range of the rectangle's share of the image's area."""
    random_erasing_ratio: tuple[float, float] = (0.3, 3.3)
    """``RandomErasing``: range of the rectangle's height / width."""
    mean: tuple[float, ...] | None = None
    """Subtracted from each channel (0 to 1); None: no normalisation."""
    std: tuple[float, ...] | None = None
    """Divides each channel; goes with ``mean``."""
    subset: int | None = None
    """Use only so many training images (by class, seeded by ``split_seed``); None: all."""
    split_seed: int = 0
    """Seeds the search split."""

    def __post_init__(self) -> None:
        check_dataset_name(self.name)
        _finite("dataset", self)
        _positive("dataset", image_size=self.image_size, resize=self.resize)
        _require(self.pad >= 0, "dataset.pad", self.pad, "0 or more")
        _require(0 < self.validation_fraction < 1, "dataset.validation_fraction", self.validation_fraction, "in (0, 1)")
        _require(0 < self.scale[0] <= self.scale[1] <= 1, "dataset.scale", list(self.scale), "0 < low <= high <= 1")
        _require(0 < self.ratio[0] <= self.ratio[1], "dataset.ratio", list(self.ratio), "0 < low <= high")
        if self.augmentation == "resized_crop":
            allowed = f"at most dataset.resize={self.resize}, the short side that the centre is cut from"
            _require(self.image_size <= self.resize, "dataset.image_size", self.image_size, allowed)
        for key, values in (("mean", self.mean), ("std", self.std)):
            if values is not None:
                allowed = "1 number, or 3 for red, green and blue"
                _require(len(values) in (1, 3), f"dataset.{key}", list(values), allowed)
        _require((self.mean is None) == (self.std is None), "dataset.std", self.std, "given exactly when mean is")
        _require(self.std is None or min(self.std) > 0, "dataset.std", self.std, "every channel above 0")
        _require(self.subset is None or self.subset > 0, "dataset.subset", self.subset, "above 0, or null for all")
        self._check_augmentations()

    def _check_augmentations(self) -> None:
        key, names = "dataset.augmentations", list(self.augmentations)
        for name in names:
            why = (
                "gates and teachers need one label an image (docs/recipes.md). "
                if name.lower() in _OF_TWO_LABELS
                else ""
            )
            _require(name in AUGMENTATIONS, key, names, f"{name!r} is none. {why}{nearest(name, AUGMENTATIONS)}")
        _require(len(set(names)) == len(names), key, names, "each name once")
        of_operations = [name for name in names if name in ("RandAugment", "TrivialAugmentWide")]
        _require(len(of_operations) < 2, key, names, f"one of {' and '.join(of_operations)}, not both")
        num_ops, magnitude = self.rand_augment_num_ops, self.rand_augment_magnitude
        _require(num_ops > 0, "dataset.rand_augment_num_ops", num_ops, "a number above 0")
        _require(0 <= magnitude <= 30, "dataset.rand_augment_magnitude", magnitude, "0 to 30")
        _require(0 <= self.random_erasing_p <= 1, "dataset.random_erasing_p", self.random_erasing_p, "in [0, 1]")
        low, high = self.random_erasing_scale
        _require(0 < low <= high <= 1, "dataset.random_erasing_scale", [low, high], "0 < low <= high <= 1")
        low, high = self.random_erasing_ratio
        _require(0 < low <= high, "dataset.random_erasing_ratio", [low, high], "0 < low <= high")


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The network of every node, or a network for each."""

    name: str
    """resnet20, resnet18, abn_resnet18, ..., ``torchvision/NAME``, ``timm/NAME``, or ``module:Name`` of one's own. Of
    different networks their names with ``+`` between them, which names the whole, in tables and folders."""
    crops: tuple[int, ...] | None = None
    """Sides of the windows in which attention maps are compared, in map pixels; None: the usual ones that fit."""
    residual_attention: bool | None = None
    """ABN: the perception branch sees ``x * map + x`` instead of ``x * map``; None: the family's default."""
    layer: str | None = None
    """The layer whose features make the attention map, of a network that is not kdhpc's own; None: it is found."""
    weights: str | None = None
    """A file of weights that every node starts from: .safetensors, or a state_dict of torch's; None: initial ones."""
    nodes: tuple[str, ...] = ()
    """The network of each node, where they differ, as ``network=[resnet50,resnet18]`` gives them; empty: all are
    ``name``."""

    def __post_init__(self) -> None:
        crops = self.crops
        if crops is not None:
            _require(bool(crops) and min(crops) > 0, "network.crops", list(crops), "one or more sizes above 0")
        if self.nodes:
            allowed = f"chosen with the name, as network=[{','.join(self.nodes)}]"
            _require(self.name == networks_label(self.nodes), "network.nodes", list(self.nodes), allowed)
        if _different(self.nodes):
            _refuse_start(self, self.distinct)

    def settled(self, num_nodes: int, whose: str) -> "NetworkConfig":
        """The same for a known number of nodes: a list of equal names is one name.

        Args:
            num_nodes: M.
            whose: The beginning of a sentence that ends in M, for the message.

        Raises:
            ConfigError: a list that is not one for each node.
        """
        if self.nodes and len(self.nodes) != num_nodes:
            raise ConfigError(
                f"network=[{','.join(self.nodes)}] is a list of {len(self.nodes)}, {whose} {num_nodes}: give a network "
                "for each node, or a single one for all"
            )
        return dataclasses.replace(self, nodes=_different(self.nodes))

    @property
    def distinct(self) -> tuple[str, ...]:
        """The different networks, each once, in the order of their first nodes."""
        return tuple(dict.fromkeys(self.nodes)) or (self.name,)

    def of(self, node: int) -> "NetworkConfig":
        """The network of a node, from 0, alone."""
        return self.only(self.nodes[node]) if self.nodes else self

    def only(self, name: str) -> "NetworkConfig":
        """That network for every node. An option that it does not have is left out."""
        if name == self.name:
            return dataclasses.replace(self, nodes=())
        kind = NETWORKS.get(name)
        residual = self.residual_attention if kind is not None and kind.attention_branch else None
        layer = self.layer if kind is None else None
        return dataclasses.replace(self, name=name, nodes=(), residual_attention=residual, layer=layer)

    def for_nodes(self, names: tuple[str, ...]) -> "NetworkConfig":
        """Those networks, one for each node; without names this config itself."""
        if not names:
            return self
        if not _different(names):
            return self.only(names[0])
        return dataclasses.replace(self, name=networks_label(names), nodes=names)


def networks_label(names: Sequence[str]) -> str:
    """What networks are called together: ``resnet50+resnet18``; equal ones have the name of one."""
    return "+".join(names if len(set(names)) > 1 else names[:1])


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    return names if len(set(names)) > 1 else ()


def _refuse_start(network: "NetworkConfig", names: Sequence[str]) -> None:
    """Refuse ``network.weights`` for different networks: a file has the weights of one."""
    if network.weights is not None:
        raise ConfigError(
            f"network.weights={network.weights} is not allowed with different networks ({', '.join(names)}): a file "
            "has the weights of one network, leave it out"
        )


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Options of the loss that the paper leaves open."""

    attention_reduction: Literal["mean", "sum"] = "mean"
    """How Eq. 6 is reduced over the pixels of a crop. The authors' code takes the ``mean``."""
    unlearned: Literal["keep", "reject", "pretrained"] = "keep"
    """What is done about a node whose incoming edges are all cut off. ``keep``: it votes with its initial weights.
    ``reject``: such graphs are not tried. ``pretrained``: it votes with weights from a file."""
    pretrained: str | dict[str, str] | None = None
    """``unlearned: pretrained``: a ``node1.safetensors`` of `kdhpc train --graph independent --nodes 1`, or one for
    each network by its name: ``{resnet18: FILE}``. The node is frozen: no gradients."""
    unlearned_norm: Literal["running", "batch"] = "running"
    """``unlearned: pretrained``: what batch norms of such a node normalise by while others learn from it. ``running``:
    its statistics, which stay. ``batch``: each batch's, and its statistics move on, as in the original code of
    knowledge transfer graphs; accuracies are measured with those."""

    def __post_init__(self) -> None:
        _require(
            (self.pretrained is not None) == (self.unlearned == "pretrained"),
            "objective.pretrained",
            self.pretrained,
            "a .safetensors file exactly when objective.unlearned=pretrained",
        )
        if self.unlearned_norm != "running" and self.unlearned != "pretrained":
            raise ConfigError(
                f"objective.unlearned_norm={self.unlearned_norm} has no meaning for "
                f"objective.unlearned={self.unlearned}: leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a training is optimised: schedule, batches, optimiser, targets."""

    epochs: int = 300
    """Epochs of the full schedule; the linear gate reaches 1 at their end."""
    batch_size: int = 16
    """Images in a step. What is left at the end of an epoch is dropped if it does not fill a batch."""
    eval_batch_size: int = 256
    """Images in a forward pass when accuracy is measured."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """``sgd``: with momentum. ``adamw``: Adam with decoupled weight decay."""
    learning_rate: float = 0.1
    """Initial learning rate; after the warm-up, if there is one."""
    momentum: float = 0.9
    """``sgd``: momentum."""
    nesterov: bool = False
    """``sgd``: Nesterov's momentum."""
    betas: tuple[float, float] = (0.9, 0.999)
    """``adamw``: how much is kept of the running means of gradients, and of their squares."""
    eps: float = 1e-8
    """``adamw``: added to the root of the mean square."""
    weight_decay: float = 1e-4
    """``sgd``: L2 penalty, part of the gradient. ``adamw``: decoupled; this share of each weight, times the learning
    rate, is taken away by a step."""
    schedule: Literal["steps", "cosine"] = "steps"
    """``steps``: the learning rate falls at ``milestones``. ``cosine``: it falls at every step, along half a cosine,
    from the end of the warm-up to ``min_learning_rate``."""
    warmup_epochs: int = 0
    """In these first epochs the learning rate rises at every step, in a line, to what the schedule says."""
    min_learning_rate: float = 0.0
    """``cosine``: where it ends."""
    milestones: tuple[float, ...] = (150, 225)
    """``steps``: 1-based epochs that start with the learning rate multiplied by ``gamma``. Also given as fractions of
    ``epochs``, as [0.5,0.75]; a config that was composed has whole epochs."""
    gamma: float = 0.1
    """``steps``: factor at each milestone."""
    label_smoothing: float = 0.0
    """Share of the label loss's target that is spread evenly over all classes; in label losses alone, not between
    networks."""
    evaluate: Literal["rungs", "every_epoch", "last"] = "rungs"
    """When accuracy is measured. ``rungs``: after epochs 1, 2, 4, ... and the last. ``every_epoch``: after each.
    ``last``: after the last one only; for final trainings, since a search prunes at the rungs."""

    def __post_init__(self) -> None:
        _finite("training", self)
        _positive(
            "training",
            epochs=self.epochs,
            batch_size=self.batch_size,
            eval_batch_size=self.eval_batch_size,
            learning_rate=self.learning_rate,
            gamma=self.gamma,
        )
        _require(0 <= self.momentum < 1, "training.momentum", self.momentum, "in [0, 1)")
        _require(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "0 or more")
        milestones = tuple(self._whole_epoch(milestone) for milestone in self.milestones)
        if list(milestones) != sorted(set(milestones)):
            allowed = (
                f"rising epochs above 0, or rising fractions of training.epochs={self.epochs}; these are the epochs "
                f"{list(milestones)}"
            )
            _require(False, "training.milestones", list(self.milestones), allowed)
        object.__setattr__(self, "milestones", milestones)
        factor = math.prod([self.gamma] * len(self.milestones))
        is_finite = math.isfinite(factor) and math.isfinite(self.learning_rate * factor)
        _require(is_finite, "training.gamma", self.gamma, "so that the last learning rate is a finite number")
        self._check_recipe()

    def _whole_epoch(self, milestone: float) -> int:
        """The epoch that a milestone means."""
        if 0 < milestone < 1:
            return max(1, round(milestone * self.epochs))
        allowed = "whole epochs above 0, or fractions of training.epochs between 0 and 1, as [0.5,0.75]"
        is_epoch = milestone > 0 and milestone == int(milestone)
        _require(is_epoch, "training.milestones", list(self.milestones), allowed)
        return int(milestone)

    def _check_recipe(self) -> None:
        if self.nesterov:
            allowed = "it is an option of sgd, leave it out or choose training.optimizer=sgd"
            _require(self.optimizer == "sgd", "training.nesterov", "true", allowed)
            _require(self.momentum > 0, "training.nesterov", "true", "it needs training.momentum above 0")
        _require(all(0 <= beta < 1 for beta in self.betas), "training.betas", list(self.betas), "each in [0, 1)")
        _positive("training", eps=self.eps)
        below = f"0 or more, below training.epochs={self.epochs}"
        _require(self.warmup_epochs in range(self.epochs), "training.warmup_epochs", self.warmup_epochs, below)
        lowest = self.min_learning_rate
        if lowest != 0:
            _require(
                self.schedule == "cosine", "training.min_learning_rate", lowest, "0, unless training.schedule=cosine"
            )
            up_to = f"0 to training.learning_rate={self.learning_rate}"
            _require(0 <= lowest <= self.learning_rate, "training.min_learning_rate", lowest, up_to)
        _require(0 <= self.label_smoothing < 1, "training.label_smoothing", self.label_smoothing, "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Where and how networks are trained: device, precision, mode."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: CUDA where there is one."""
    precision: Literal["auto", "float32", "tf32", "bf16", "fp16"] = "auto"
    """What the networks compute in. ``float32``: all of it, on every device, without TF32. ``tf32``: float32 whose
    convolutions multiply in TF32 (GPUs since Ampere). ``bf16``, ``fp16``: autocast; fp16 also scales the loss, and
    needs CUDA. Classifiers and losses are float32 in all of them. ``auto``: bf16 on GPUs since Ampere
    and CPUs with AMX, else float32. A study has one precision, which all its workers take, and so have all seeds of a
    final training: what is given here, or what ``auto`` is for the first one."""
    mode: Literal["auto", "eager", "compile", "cudagraph"] = "auto"
    """``eager``: as written. ``compile``: torch.compile of the network and of the loss. ``cudagraph``: the whole step,
    compiled, recorded once and replayed (CUDA). ``auto``: on CUDA the last that the device can; on the CPU ``compile``
    where the training ahead is long enough to win the compiling back, else ``eager``, and a resumed training keeps the
    mode that it has had. One that fails falls back to the one before it."""
    node_streams: bool = False
    """CUDA: run each node's network on a CUDA stream of its own."""
    combine: bool = True
    """CUDA, compiled: compile the networks of all nodes together, so that equal work of all nodes is one kernel launch.
    Compiling takes longer. Has no effect with ``node_streams``."""
    cudnn_benchmark: bool = False
    """CUDA: at the first step of each shape, cuDNN tries its algorithms and keeps the fastest (``cudnn.benchmark``)."""
    channels_last: bool = True
    """Memory format of images and convolutions."""
    threads: int | None = None
    """CPU threads of each worker; None: as many as its Slurm job has cores, outside Slurm torch's own choice."""

    def __post_init__(self) -> None:
        _require(self.threads is None or self.threads > 0, "device.threads", self.threads, "above 0, or null")
        on_cpu = self.device == "cpu"
        if on_cpu and self.precision in ("tf32", "fp16"):
            raise ConfigError(f"device.precision={self.precision} needs CUDA, the device is cpu: use float32 or bf16")
        if self.mode == "cudagraph" and on_cpu:
            raise ConfigError("device.mode=cudagraph needs CUDA, the device is cpu: use device.mode=auto")
        if on_cpu and self.node_streams:
            raise ConfigError("device.node_streams=true needs CUDA, the device is cpu: leave it out")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What is searched, and for how long."""

    num_nodes: int
    """M, the networks of the ensemble."""
    trials: int
    """The budget: complete, pruned and failed trials together."""
    seed: int = 0
    """Seeds the graphs, the weights and the data order."""
    label_gates: tuple[Gate, ...] = BUILT_IN_GATES
    """Gates that label edges may have."""
    gates: tuple[Gate, ...] = BUILT_IN_GATES
    """Gates that distillation edges may have."""
    designs: tuple[Design, ...] = BUILT_IN_DESIGNS
    """Loss designs that distillation edges may have."""
    node1_learns: bool = False
    """Leave out graphs in which no edge teaches node 1."""
    networks: tuple[str, ...] = ()
    """Networks that each node may be: the search chooses. Empty: all trials have the networks of ``network``. Graphs
    that name no networks have those of ``network``, too."""
    node1_network: str | None = None
    """The network of node 1 where ``networks`` are the choices of all other nodes; null: it is chosen like theirs."""
    pruner: Literal["median", "asha", "none"] = "median"
    """``median``: the paper's rule. ``asha``: Optuna's successive halving (1, 2, 0). ``none``: no trial ends early."""
    prune_from: int = 1
    """The first epoch at which a trial may end early. 1: as in the paper. Later where the first epochs tell little of
    the last, so that a median there throws good graphs away; a search then costs more. Trials are scored at all rungs
    whatever it is."""
    sampler: Literal["random", "tpe", "evolve", "refine"] = "random"
    """``random``: the paper's, a pure function of (seed, slot). ``tpe``: Optuna's. ``evolve``: regularised evolution,
    begins with the presets, then changes one edge or network of a good graph. ``refine``: random graphs first, then all
    that differ from the best ones in one edge or network."""
    population: int | None = None
    """``evolve``: so many first slots try presets and random graphs, and as many trials, the last complete ones, are
    the parents; null: a tenth of the trials, from 16 to 100. ``refine``: so many first slots try random graphs; null:
    half of the trials."""
    sample: int | None = None
    """``evolve``: parents that a slot draws, to change the best of them; null: a quarter of the population."""
    refine_best: int = 3
    """``refine``: the graphs whose neighbours are tried: the best of the study, at the moment when a trial begins."""
    max_gpu_hours: float | None = None
    """Once workers have spent so many hours on the study's trials, no more begin, and those that run go on to their
    end; hours of CPU workers where there is no GPU. null: ``trials`` alone ends the search."""
    goal: GoalName = DEFAULT_GOAL
    """What the search makes better, on the validation images. ``ensemble``: the ensemble's accuracy. ``node1``: that
    of node 1. ``mean_node``: the mean of the nodes'. ``nll``: the mean negative log-likelihood of the softmax of the
    ensemble's logits, which is made smaller. Pruning and samplers go by it, too."""
    max_attempts: int = 3
    """After so many crashes without progress, a trial counts as failed and is not tried again."""
    baselines: tuple[str, ...] = ("independent", "dml")
    """Graphs that a new study trains beside its budget, to the end and first, for the best graph to be compared with:
    presets (as ``kdhpc train --graph`` takes them) or graphs' files. None: ``[]``. A study that exists keeps those that
    it has, and `kdhpc enqueue` gives it more."""

    def __post_init__(self) -> None:
        _positive(
            "study",
            num_nodes=self.num_nodes,
            trials=self.trials,
            max_attempts=self.max_attempts,
            prune_from=self.prune_from,
        )
        _require(
            self.trials <= MOST_TRIALS, "study.trials", self.trials, f"at most {MOST_TRIALS:,}, the paper has 6,000"
        )
        for key, number in (
            ("population", self.population),
            ("sample", self.sample),
            ("refine_best", self.refine_best),
        ):
            _require(number is None or number > 0, f"study.{key}", number, "a whole number above 0, or null")
        hours = self.max_gpu_hours
        _require(hours is None or 0 < hours < math.inf, "study.max_gpu_hours", hours, "a number above 0, or null")
        if self.population is not None and self.sampler not in ("evolve", "refine"):
            raise ConfigError(f"study.population has no meaning for study.sampler={self.sampler}: leave it out")
        if self.prune_from > 1 and self.pruner == "none":
            raise ConfigError(f"study.prune_from={self.prune_from} has no meaning for study.pruner=none: leave it out")
        if self.sample is not None and self.sampler != "evolve":
            raise ConfigError(f"study.sample has no meaning for study.sampler={self.sampler}: leave it out")
        _require(self.num_nodes <= MOST_NODES, "study.num_nodes", self.num_nodes, f"at most {MOST_NODES}")
        for key, values in (("label_gates", self.label_gates), ("gates", self.gates), ("designs", self.designs)):
            shown = [value.value for value in values]
            _require(len(values) == len(set(values)) > 0, f"study.{key}", shown, "one or more different names")
        is_choice = not self.networks or len(self.networks) == len(set(self.networks)) > 1
        _require(is_choice, "study.networks", list(self.networks), "two or more different names, or none: []")
        if self.node1_network is not None and not self.networks:
            raise ConfigError(
                f"study.node1_network={self.node1_network} has no meaning without study.networks: give network= alone"
            )


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """How a worker leases, checkpoints and runs its trials."""

    lease_s: float = 300.0
    """A slot whose lease was not renewed for so long is taken over by another worker."""
    renew_s: float = 30.0
    """How often the lease is renewed."""
    checkpoint_every_s: float = 300.0
    """Longest time between two checkpoints."""
    rung_checkpoint_s: float = 30.0
    """At a rung that a trial passes, a checkpoint is written if the last one, or the trial's beginning, is so long ago.
    Most trials end at their first rungs: a checkpoint at each would be most of what a large fleet writes."""
    concurrent_trials: int | Literal["auto"] = "auto"
    """Trials that a worker trains at once, for small networks on a large GPU. ``auto``: 1 on a CPU. On CUDA, a worker
    finds out in its first minutes how many, up to 8, make the most steps per second together."""
    max_failures: int = 3
    """A worker stops after so many crashed trials in a row: its machine, not the graphs, is probably broken."""

    def __post_init__(self) -> None:
        _finite("worker", self)
        _positive(
            "worker",
            lease_s=self.lease_s,
            renew_s=self.renew_s,
            checkpoint_every_s=self.checkpoint_every_s,
            max_failures=self.max_failures,
            concurrent_trials=1 if self.concurrent_trials == "auto" else self.concurrent_trials,
        )
        _require(self.rung_checkpoint_s >= 0, "worker.rung_checkpoint_s", self.rung_checkpoint_s, "0 or more")
        _require(self.renew_s * 2 <= self.lease_s, "worker.renew_s", self.renew_s, "at most half of worker.lease_s")


def _option_of(options: tuple[str, ...], beginning: str) -> str | None:
    return next((option for option in options if option.startswith(beginning)), None)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where the workers run."""

    executor: Literal["local", "slurm"] = "local"
    """``local``: processes on this machine. ``slurm``: jobs."""
    workers: int = 1
    """Number of workers that run at once."""
    partition: str | None = None
    """Slurm partition of the workers' jobs; None: the default one."""
    account: str | None = None
    """Slurm account; None: the user's default one."""
    qos: str | None = None
    """Slurm quality of service; None: the default one."""
    constraint: str | None = None
    """Features that a Slurm node must have, such as ``a100``; None: any node will do."""
    gpus_per_worker: int = 1
    """GPUs that a worker's job asks for: 1, or 0 for none. A worker uses one; more GPUs are for more ``workers``."""
    cpus_per_worker: int = 4
    """CPU cores of a worker's job."""
    mem_gb: float | None = 16.0
    """Memory of a worker's job. None: sbatch is not given ``--mem``, for sites that refuse it or assign it by cores."""
    mem_per_cpu_gb: float | None = None
    """Memory for each CPU core, instead of ``mem_gb``; None: sbatch is not given ``--mem-per-cpu``."""
    time_min: int = 240
    """Time limit of a worker's job. At the limit the job is requeued, and goes on from its checkpoint."""
    signal_delay_s: int = 180
    """A worker has so long, before the time limit, for its step and its checkpoint. Slurm needs up to 60 s of it."""
    sbatch: tuple[str, ...] = ()
    """Further sbatch options of a worker's job, such as ``exclude=node7`` or ``nice``."""
    setup: tuple[str, ...] = ()
    """Shell lines that a worker's job runs first."""
    python: str | None = None
    """Shell command that starts kdhpc's Python in a worker's job, as in a container; None: the Python that launches."""
    listen: str = "all"
    """If a launch hosts the database: name or address that it listens on for the workers; ``all``: every interface."""
    networks: tuple[str, ...] = ()
    """If a launch hosts the database: networks that may connect, such as 10.0.0.0/8. Empty: its machine's own."""

    def __post_init__(self) -> None:
        _finite("cluster", self)
        _positive(
            "cluster",
            workers=self.workers,
            cpus_per_worker=self.cpus_per_worker,
            mem_gb=1 if self.mem_gb is None else self.mem_gb,
            mem_per_cpu_gb=1 if self.mem_per_cpu_gb is None else self.mem_per_cpu_gb,
            time_min=self.time_min,
            signal_delay_s=self.signal_delay_s,
        )
        by_cores = "mem_per_cpu_gb" if self.mem_per_cpu_gb is not None else _option_of(self.sbatch, "mem-per-")
        if by_cores and self.mem_gb is not None:
            raise ConfigError(f"cluster.mem_gb={self.mem_gb} is not allowed beside {by_cores}: add cluster.mem_gb=null")
        _require(
            self.gpus_per_worker in (0, 1),
            "cluster.gpus_per_worker",
            self.gpus_per_worker,
            "0 or 1, a worker uses one GPU; start more workers (cluster.workers) for more GPUs",
        )
        limit_s = 60 * self.time_min
        _require(
            self.signal_delay_s < limit_s, "cluster.signal_delay_s", self.signal_delay_s, "less than cluster.time_min"
        )
        for option in self.sbatch:
            _require(
                re.fullmatch(r"[a-z][a-z-]*(=.+)?", option) is not None, "cluster.sbatch", option, "as exclude=node7"
            )
            is_own = option.partition("=")[0] in ("array", "signal", "test-only", "wait", "wrap")
            _require(not is_own, "cluster.sbatch", option, "this option is kdhpc's own to set")


TRACKERS = ("none", "tensorboard", "mlflow", "wandb")
"""What ``tracking.tracker`` may be, beside ``module:Name`` of one's own."""
_LONGEST_WAIT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where trainings are shown while they run, beside kdhpc's own files. Numbers do not depend on it."""

    tracker: str = "none"
    """``none``, ``tensorboard``, ``mlflow``, ``wandb``, or ``module:Name`` of one's own. Each is an extra of kdhpc's
    of that name. Whatever it does, training goes on."""
    wait_s: float = 30.0
    """How long a worker, or a final training, waits at its end for what is not tracked yet; 5 s at most where it was
    told to stop."""

    def __post_init__(self) -> None:
        _finite("tracking", self)
        is_known = self.tracker in TRACKERS or is_place(self.tracker)
        hint = f"no tracker is called so; {nearest(self.tracker, TRACKERS)}, or module:Name"
        _require(is_known, "tracking.tracker", self.tracker, hint)
        in_range = 0 <= self.wait_s <= _LONGEST_WAIT_S
        _require(in_range, "tracking.wait_s", self.wait_s, f"0 to {_LONGEST_WAIT_S:g}")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Everything that a search needs."""

    dataset: DatasetConfig
    network: NetworkConfig
    objective: ObjectiveConfig
    training: TrainingConfig
    device: DeviceConfig
    study: StudyConfig
    worker: WorkerConfig
    cluster: ClusterConfig
    tracking: TrackingConfig = TrackingConfig()
    plugins: tuple[str, ...] = ()
    """Modules of designs and gates of one's own, which ``study.designs`` and ``study.gates`` may then name."""

    def __post_init__(self) -> None:
        _check_plugins(self.plugins)
        evaluate = self.training.evaluate
        _require(evaluate != "last", "training.evaluate", evaluate, "rungs or every_epoch, a search prunes by them")
        object.__setattr__(self, "network", self.network.settled(self.study.num_nodes, "study.num_nodes is"))
        names = [one.name for one in self.possible_networks]
        if len(names) > 1:
            _refuse_start(self.network, names)

    @property
    def possible_networks(self) -> tuple[NetworkConfig, ...]:
        """All networks that some node of some trial may be, each alone."""
        study = self.study
        first = () if study.node1_network is None else (study.node1_network,)
        names = dict.fromkeys((*self.network.distinct, *first, *study.networks))
        return tuple(self.network.only(name) for name in names)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One final training."""

    graph: str
    """A graph's file, or a preset: ``independent``, ``dml``, ``uniform:DESIGN``; ``one`` for the branched baseline,
    ``sla`` and ``frskd`` for a single network that teaches itself, ``student`` for one that learns from ``teacher``."""
    num_nodes: int | None = None
    """Nodes of a preset, or branches of ``one``. None for a graph's file, which has the number, and for one network."""
    teacher: str | None = None
    """``graph: student``: folder of a run of `kdhpc train` that is done. Its ensemble teaches."""
    teacher_node: int | None = None
    """``graph: student``: the node of that run, from 1, which teaches alone; None: the ensemble does."""
    temperature: float = 1.0
    """``graph: student`` and ``sla``: temperature T of the distillation. The paper does not state a student's."""
    distillation_weight: float | None = None
    """``graph: student``: w in (1 - w) CE + w T^2 KL, 0 to 1; None: CE + T^2 KL."""
    large_loss: bool = False
    """``graph: sla``: the joint loss counts four times, as the authors advise for data sets such as ImageNet."""
    alpha: float = 2.0
    """``graph: frskd``: weight of the distillation of probabilities; the authors' for CIFAR-100."""
    beta: float = 100.0
    """``graph: frskd``: weight of the attention losses; the authors' for CIFAR-100."""
    seed: int = 0
    """Seeds weights, data order and augmentation."""
    name: str | None = None
    """Folder below ``runs/train``; None: data set, network, graph and number of nodes."""
    split: Literal["official", "search"] = "official"
    """``official``: learn from the training images, score on the test images. ``search``: learn and score within the
    training images, as the trials of a search do; for weights that a search loads (``objective.pretrained``)."""
    checkpoint_every_s: float = 300.0
    """Time between two checkpoints."""

    def __post_init__(self) -> None:
        _finite("run", self)
        if self.name is not None:
            _check_name("run.name", self.name)
        _require(self.num_nodes is None or self.num_nodes > 0, "run.num_nodes", self.num_nodes, "above 0, or null")
        _require((self.num_nodes or 1) <= MOST_NODES, "run.num_nodes", self.num_nodes, f"at most {MOST_NODES}")
        _require(self.seed >= 0, "run.seed", self.seed, "0 or more")
        _positive("run", checkpoint_every_s=self.checkpoint_every_s, temperature=self.temperature)
        node, weight = self.teacher_node, self.distillation_weight
        _require(node is None or node > 0, "run.teacher_node", node, "1 or more, or null for the ensemble")
        _require(weight is None or 0 <= weight <= 1, "run.distillation_weight", weight, "in [0, 1], or null")
        for key, value in (("alpha", self.alpha), ("beta", self.beta)):
            _require(value >= 0, f"run.{key}", value, "0 or more")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that a final training needs."""

    dataset: DatasetConfig
    network: NetworkConfig
    objective: ObjectiveConfig
    training: TrainingConfig
    device: DeviceConfig
    run: RunConfig
    tracking: TrackingConfig = TrackingConfig()
    plugins: tuple[str, ...] = ()
    """Modules of designs and gates of one's own, which the graph may then have."""

    def __post_init__(self) -> None:
        _check_plugins(self.plugins)


def _check_plugins(plugins: tuple[str, ...]) -> None:
    _require(len(set(plugins)) == len(plugins), "plugins", list(plugins), "different names of modules")


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def check_dataset_name(name: str) -> str:
    """The name, if a folder can carry it.

    Raises:
        ConfigError: it is empty, too long, or has other characters.
    """
    return _check_name("data set name", name)


def check_study_name(name: str) -> str:
    """The name, if a folder and a database row can carry it.

    Raises:
        ConfigError: it is empty, too long, or has other characters, or is that of a folder of kdhpc's own.
    """
    if name in OWN_FOLDERS:
        raise ConfigError(f"study name {name!r} is not allowed: runs/{name} is kdhpc's own, choose another")
    return _check_name("study name", name)


def _check_name(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{what} {name!r} is not allowed: 1 to 63 letters, digits, '_', '.' or '-', a letter or digit first"
        )
    return name
