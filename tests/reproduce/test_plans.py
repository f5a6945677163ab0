"""The shipped files of tables and figures: what they come to, without data and without training anything."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kdhpc.cli.main import build_parser, main
from kdhpc.cli.reproduce import WHAT
from kdhpc.config.compose import compose_search, compose_train
from kdhpc.config.folders import config_names
from kdhpc.config.networks import NETWORKS
from kdhpc.config.own_datasets import packed_names
from kdhpc.errors import ConfigError
from kdhpc.reproduce.cost import mean_epochs
from kdhpc.reproduce.datasets import miniature_datasets, paper_datasets
from kdhpc.reproduce.overrides import Overrides
from kdhpc.reproduce.plan import Plan, all_steps, open_steps
from kdhpc.reproduce.reading import NAMES, Wanted, read_plan
from kdhpc.reproduce.table import read_published
from tests.reproduce.made import pack_few

_USUAL = ["dataset=cifar10", "network=resnet20"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KDHPC_RUNS", "KDHPC_DATA", "KDHPC_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan_of(name: str, scale: str = "miniature", *overrides: str, launcher: str = "none") -> Plan:
    standing = miniature_datasets(()) if scale == "miniature" else paper_datasets()
    overrides_ = Overrides.of(overrides)
    wanted = Wanted(scale=scale, standing=standing, overrides=overrides_, launcher=launcher, config_dir=None)
    return read_plan(name, wanted)


def test_names_of_the_command_are_those_of_the_files() -> None:
    assert (*NAMES, "all") == WHAT


@pytest.mark.parametrize("scale", ["paper", "miniature"])
def test_plans_share_trainings_and_never_contradict_each_other(scale: str) -> None:
    plans = [plan_of(name, scale) for name in NAMES]

    shared = {step.key: step for step in all_steps(plans)}
    for plan in plans:
        for step in plan.steps:
            assert step.commands == shared[step.key].commands, step.name


@pytest.mark.parametrize("scale", ["paper", "miniature"])
def test_every_command_parses_and_its_config_composes(scale: str) -> None:
    steps = all_steps([plan_of(name, scale) for name in NAMES])
    for name in ("fashion_mnist-first", "fashion_mnist-second"):
        pack_few(name)
    seen = set[tuple[str, ...]]()
    for words in (words for step in steps for words in step.commands):
        args = build_parser().parse_args(list(words))
        overrides = [word for word in getattr(args, "overrides", ()) if not word.startswith("run.name=")]
        chosen = {key: value for key, _, value in (word.partition("=") for word in overrides)}
        assert chosen.get("network", "resnet8") in NETWORKS
        assert chosen.get("dataset", "cifar10") in (*config_names("dataset"), *packed_names())
        for value in chosen.values():
            if value.endswith(".safetensors"):
                Path(value).parent.mkdir(parents=True, exist_ok=True)
                Path(value).touch()
        # Composing is slow: once for each set of settings, whatever the data set and the network.
        kind = (words[0], *(word for word in overrides if not word.startswith(("dataset=", "network="))))
        if words[0] == "export-best" or kind in seen:
            continue
        seen.add(kind)
        if words[0] == "search":
            study = [] if "study" in chosen else [f"study={args.study}"]
            assert compose_search([*study, *overrides]).study.sampler == "random"
        elif words[0] == "train":
            assert compose_train(["run.graph=independent", *overrides]).training.evaluate == "last"


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "table4"])
def test_paper_scale_has_a_cell_for_every_published_number_and_no_other(table: str) -> None:
    cells = {(cell.row, cell.column) for cell in plan_of(table, "paper").cells}

    assert cells == set(read_published(table).numbers)


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "table4"])
def test_miniature_cells_are_published_ones(table: str) -> None:
    cells = {(cell.row, cell.column) for cell in plan_of(table).cells}

    assert cells
    assert cells <= set(read_published(table).numbers)


def test_table2_of_the_paper_is_four_searches_and_32_trainings_of_five_seeds() -> None:
    steps = plan_of("table2", "paper").steps

    assert [step.name for step in steps if step.kind == "search"] == ["dogs2", "dogs3", "dogs4", "dogs5"]
    assert [step.seeds for step in steps if step.kind == "train"] == [(0, 1, 2, 3, 4)] * 32


def test_a_miniature_of_one_data_set_prepares_disjoint_halves_before_it_trains() -> None:
    steps = plan_of("table3").steps

    halves = [step for step in steps if step.kind == "prepare"]
    assert sorted(step.name for step in halves) == ["fashion_mnist-first", "fashion_mnist-second"]
    done = set[tuple[str, str]]()
    for step in steps:
        assert set(step.needs) <= done, step.name
        done.add(step.key)


def test_two_prepared_data_sets_stand_for_two() -> None:
    for name in ("fashion_mnist", "pets"):
        pack_few(name)

    assert dict(miniature_datasets(()).names) == {"first": "fashion_mnist", "one": "fashion_mnist", "two": "pets"}
    assert miniature_datasets(("pets",)).names["two"] == "pets-second"


def test_what_is_done_is_left_out_and_with_it_the_search_that_nobody_needs() -> None:
    plan = plan_of("figure6")
    assert open_steps(plan.steps) == plan.steps
    trained = [step for step in plan.steps if step.kind == "train"]
    for step in trained[:1]:
        for seed in step.seeds:
            result = Path("runs/train") / step.name / f"seed{seed}" / "result.json"
            result.parent.mkdir(parents=True)
            result.touch()

    assert [step.name for step in open_steps(plan.steps)] == ["miniature-fashion_mnist-3", trained[1].name]


def test_overrides_go_where_they_have_a_meaning() -> None:
    plan = plan_of("figure6", "paper", "cluster.partition=gpu", "device.precision=bf16", launcher="submitit_slurm")

    search, export = plan.steps[0].commands
    assert search == (
        *("launch", "--wait", "--study", "dogs2", "--trials", "6000"),
        *("cluster.partition=gpu", "device.precision=bf16"),
    )
    assert export == ("export-best", "--study", "dogs2")
    (train,) = plan.steps[1].commands
    assert "device.precision=bf16" in train
    assert "cluster.partition=gpu" not in train
    assert train[train.index("--launcher") + 1] == "submitit_slurm"


def test_an_override_takes_the_place_of_what_the_file_says() -> None:
    for step in plan_of("table4", "miniature", "training.epochs=2").steps:
        if step.kind != "prepare":
            given = [word for word in step.overrides if word.startswith("training.epochs=")]
            assert given == ["training.epochs=2"], step.name


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        ("table9", 2, "table9"),
        ("all", 1, "not prepared: cifar10, cifar100, cub200, stanford_cars, stanford_dogs; prepare each with"),
        ("all --scale miniature", 1, "not prepared: fashion_mnist; prepare each with"),
        ("table2 --scale paper --data fashion_mnist", 2, "--data has no meaning with --scale paper"),
        ("table2 --scale miniature --data pets", 2, "--data pets is not prepared"),
        ("table2 --scale miniature --data a,a", 2, "give one data set, or two different ones"),
        ("table2 dataset=cub200 --dry-run", 2, "dataset=cub200 is not allowed here"),
        ("table2 run.seed=3 --dry-run", 2, "run.seed=3 is not allowed here"),
        ("table2 hydra.launcher.partition=gpu --dry-run", 2, "has no meaning without jobs"),
        ("table2 --launcher submitit_slurm hydra.launcher.partitio=gpu --dry-run", 2, "did you mean 'partition'?"),
        ("table2 ~study.num_nodes --dry-run", 2, "~study.num_nodes is not allowed here"),
        ("table2 study.goal=node1 --dry-run", 2, "study.goal=node1 is not allowed here"),
        ("table2 study.trials=many --dry-run", 2, "study.trials is a number, 1 or more"),
        # Nothing has begun, and a dry run says the same.
        ("table2 training.epoch=3 --dry-run", 2, "training.epoch"),
        ("table2 training.epochs=two --dry-run", 2, "training.epochs"),
        ("table2 study.prune_from=0 --dry-run", 2, "study.prune_from"),
        ("table2 worker.rung_checkpoint_s=-1 --dry-run", 2, "worker.rung_checkpoint_s"),
        ("all --scale miniature study.sampler=tpee", 2, "study.sampler"),
        ("table3 --scale miniature --data a, --dry-run", 2, "give one data set, or two different ones"),
        ("", 2, "required: NAME (see"),
    ],
)
def test_wrong_words_are_told_in_a_line(
    argv: str, code: int, said: str, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    try:
        found = main(["reproduce", *argv.split()])
    except SystemExit as exc:
        found = int(str(exc.code))
    assert found == code
    assert said in capsys.readouterr().err
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trainigs": []}, "unknown key 'trainigs': did you mean 'trainings'?"),
        ({"trainings": [{"name": "a"}]}, "an entry of trainings has no 'graph'"),
        ({"trainings": [{"name": "{whose}", "graph": "dml"}]}, "nothing is called {whose}"),
        (
            {"trainings": [{"name": "{data}", "graph": "best of x"}]},
            "nothing makes the search 'x' that 'cifar10' needs",
        ),
        ({"trainings": [{"each": "sets", "name": "a", "graph": "dml"}]}, "each: 'sets' is no list"),
        ({"paper": {"data": "{data}"}, "trainings": [{"name": "{data}", "graph": "dml"}]}, "stands for itself"),
        ({"trainings": [{"name": "a", "graph": "dml", "overrides": ["{data}", "{list}"]}]}, "nothing is called {list}"),
        ({"paper": None}, "has no mapping 'paper'"),
        ({}, "has neither searches nor trainings"),
        ({"published": "table9", "trainings": [{"name": "a", "graph": "dml"}]}, "no numbers of 'table9'"),
        *(
            ({"trainings": [{"name": "a", "graph": "dml", **entry}]}, said)
            for entry, said in (
                ({"nodes": "two"}, "nodes: 'two' is not allowed: a whole number, 1 or more"),
                ({"nodes": -1}, "nodes: '-1' is not allowed"),
                ({"nodes": None}, "an entry of trainings has nothing for 'nodes'"),
                ({"name": ["a"]}, "['a'] stands where a text should"),
                ({"cells": ["ensemble"]}, "cells: ['ensemble'] is no mapping"),
                ({"cells": {"node": "ensmble"}}, "unknown measure 'ensmble': did you mean 'ensemble'?"),
                ({"overrides": ["--help"]}, "overrides: '--help' is not allowed"),
                ({"overrides": [None]}, "None stands where a text should"),
                ({"overrides": ["run.name=b"]}, "overrides: 'run.name=b' is not allowed"),
                ({"graph": "student"}, "a: graph: student has a teacher, and no other graph has"),
                ({"teacher_node": 2}, "a: graph: student has a teacher, and no other graph has"),
                ({"overrides": ["dataset="]}, "data: '' is the name of no data set"),
            )
        ),
        (
            {"paper": {"data": "cifar10", "network": "resnet20", "x": ["{y}"], "y": ["{x}"]}}
            | {"trainings": [{"name": "a", "graph": "dml", "overrides": ["{x}"]}]},
            "never comes to an end",
        ),
        *(
            ({"trainings": [{"name": "a", "graph": "dml"}], "reports": [report]}, said)
            for report, said in (
                ({"words": ["graph"], "folder": "../../up"}, "folder: '../../up' is not allowed"),
                ({"words": ["graph", "--out=/tmp"]}, "words: --out is not allowed"),
            )
        ),
        (
            {
                "trainings": [
                    {"name": "a", "graph": "independent", "seeds": "3..4"},
                    {"name": "b", "graph": "student", "teacher": "a", "seeds": 0},
                ]
            },
            "'b' needs seed 0 of 'a', which is not trained",
        ),
    ],
)
def test_wrong_files_are_told_in_a_line(change: dict[str, object], said: str, folder: Path) -> None:
    write_table2(folder, **change)

    with pytest.raises(ConfigError) as caught:
        plan_of("table2", "paper")
    assert said in str(caught.value)


def test_words_for_jobs_are_checked_of_each_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = {"graph": "dml", "nodes": 2, "overrides": _USUAL}
    other = {**trained, "overrides": [*_USUAL, "hydra.launcher.partitio=gpu"]}
    write_table2(folder, trainings=[{"name": "a", **trained}, {"name": "b", **other}])

    assert main(["reproduce", "table2", "--launcher", "submitit_slurm", "--dry-run"]) == 2
    assert "b: unknown config key 'hydra.launcher.partitio'" in capsys.readouterr().err


def test_a_key_that_is_given_twice_is_told(folder: Path) -> None:
    write_table2(folder, title="a")
    with (folder / "configs/reproduce/table2.yaml").open("a", encoding="utf-8") as file:
        file.write("title: b\n")

    with pytest.raises(ConfigError, match="'title' is given twice"):
        plan_of("table2", "paper")


def test_data_that_a_training_names_itself_must_be_prepared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = {"name": "mine", "graph": "dml", "nodes": 2, "overrides": ["dataset=birds", "network=resnet20"]}
    write_table2(folder, trainings=[trained])

    assert main(["reproduce", "table2", "--dry-run"]) == 0
    assert "not prepared: birds;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["accurcy"], "kdhpc report: unknown command 'accurcy': did you mean 'accuracy'?"),
        (["accuracy", "--by", "nods"], "argument --by: unknown value 'nods'"),
        (["pairs", "--help"], "shows help"),
    ],
)
def test_reports_of_a_file_are_checked_before_anything_starts(
    words: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = {"name": "mine", "graph": "dml", "nodes": 2, "overrides": ["dataset=cifar10", "network=resnet20"]}
    write_table2(folder, trainings=[trained], reports=[{"words": words}])

    assert main(["reproduce", "table2", "--dry-run"]) == 2
    found = capsys.readouterr()
    assert "configs/reproduce/table2.yaml: " in found.err
    assert said in found.err
    assert not found.out


def test_maps_are_those_of_the_first_seed(folder: Path) -> None:
    trained = {"name": "a", "graph": "independent", "seeds": "3..4"}
    write_table2(folder, trainings=[trained], reports=[{"words": ["attention", "--images", "4"]}, {"words": ["graph"]}])

    maps, graph = plan_of("table2", "paper").reports
    assert maps.words == ("attention", "--images", "4", "runs/train/a/seed3")
    assert graph.words == ("graph", "runs/train/a")


def write_table2(folder: Path, **change: object) -> None:
    (folder / "configs/reproduce").mkdir(parents=True)
    document = {"paper": {"data": "cifar10", "network": "resnet20"}, **change}
    (folder / "configs/reproduce/table2.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"graph": "dmll"}, "graph 'dmll' is neither a preset nor a file: did you mean 'dml'?"),
        ({"graph": "zoo/cifar100-33"}, "did you mean 'zoo/cifar100-3'?"),
        ({"graph": "dml", "name": "x" * 64}, "1 to 63 letters"),
        ({"graph": "dml", "overrides": [*_USUAL, "training.epoch=3"]}, "training.epoch"),
        ({"graph": "dml", "overrides": [*_USUAL, "run.alpha=3"]}, "run.alpha=3.0 has no meaning"),
        ({"graph": "dml", "overrides": [*_USUAL, "hydra.launcher.name=a"]}, "no meaning without jobs"),
        ({"graph": "dml", "network": "wrn16_2"}, "networks has no 'wrn16_2'"),
    ],
)
def test_what_a_file_trains_is_checked_before_anything_starts(
    training: dict[str, object], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = {"name": "mine", "nodes": 2, "overrides": _USUAL}
    write_table2(folder, trainings=[{**usual, **training}])

    assert main(["reproduce", "table2", "--dry-run"]) == 2
    assert said in capsys.readouterr().err


def test_names_of_trainings_stay_short_whatever_the_data_set_is_called() -> None:
    name = "photographs-of-birds-by-their-species"
    pack_few(name)
    plans = [
        read_plan(
            table,
            Wanted(
                scale="miniature",
                standing=miniature_datasets((name,), must_exist=False),
                overrides=Overrides(),
                launcher="none",
                config_dir=None,
            ),
        )
        for table in NAMES
    ]
    names = [step.name for step in all_steps(plans) if step.kind == "train"]

    assert max(map(len, names)) <= 63
    assert any(name.startswith("miniature-photographs-o-") for name in names)


def test_own_configs_and_trials_go_to_the_commands(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    wanted = Wanted(
        scale="paper",
        standing=paper_datasets(),
        overrides=Overrides.of(["study.trials=200"]),
        launcher="none",
        config_dir=own,
    )
    search, train = (step.commands[0] for step in read_plan("figure6", wanted).steps[:2])

    assert search == ("search", "--study", "dogs2", "--trials", "200", "--config-dir", str(own))
    assert ("--config-dir", str(own)) == train[train.index("--config-dir") :][:2]


def test_data_whose_name_ends_as_a_half_is_data() -> None:
    pack_few("pets-first")
    assert miniature_datasets(()).names["first"] == "pets-first"
    pack_few("pets")
    assert miniature_datasets(()).names["first"] == "pets"
    assert miniature_datasets(("pets-first",)).names["first"] == "pets-first"


def test_dry_run_with_data_that_is_not_there_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reproduce", "table3", "--scale", "miniature", "--data", "cifar100,fashion_mnist"]
    assert main([*words, "--dry-run"]) == 0
    assert "# not prepared: cifar100, fashion_mnist; prepare each" in capsys.readouterr().out
    assert main(words) == 2


def test_dry_run_of_everything_needs_no_data_and_no_torch(folder: Path) -> None:
    code = (
        "import sys\n"
        "from kdhpc.cli.main import main\n"
        "code = main(['reproduce', 'all', '--dry-run'])\n"
        "print('LOADED', [name for name in ('torch', 'sqlalchemy', 'matplotlib') if name in sys.modules])\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", cwd=folder, check=True)

    assert "LOADED []" in done.stdout
    assert "# 9 searches of 48,132 trials in all, 831 trainings; left to do: 9 searches, 831 trainings" in done.stdout
    assert "of one GPU are left" in done.stdout
    assert "assumed, not measured" in done.stdout
    assert not list(folder.iterdir())
    for line in done.stdout.splitlines():
        if line.startswith("kdhpc "):
            build_parser().parse_args(shlex.split(line)[1:])


def test_mean_epochs_of_a_trial_halves_at_each_rung() -> None:
    # 4 epochs: all train 1, half go on to 2, a quarter to 4.
    assert mean_epochs(4) == 1 + 0.5 * 1 + 0.25 * 2
    assert mean_epochs(1) == 1
    # Nothing ends at 1.
    assert mean_epochs(4, prune_from=2) == 2 + 0.5 * 2


def test_hours_follow_the_epochs_and_the_pruning_that_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    def hours(*overrides: str) -> float:
        assert main(["reproduce", "figure6", "--scale", "paper", "--dry-run", *overrides]) == 0
        return float(re.findall(r"about ([\d.,]+) hours", capsys.readouterr().out)[-1].replace(",", ""))

    usual = hours()
    assert hours("training.epochs=150") < 0.9 * usual
    # Of 300 epochs 49 instead of 5.1, or all.
    assert hours("study.prune_from=32") > 5 * usual
    assert hours("study.pruner=none") > 3 * hours("study.prune_from=32")
    assert hours("study.trials=600") < 0.5 * usual
    assert hours("dataset.subset=600") < 0.15 * usual
    assert hours("study.max_gpu_hours=10") < 0.5 * usual
