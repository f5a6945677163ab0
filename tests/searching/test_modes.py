"""A whole search whose steps are compiled, by the real Inductor."""

import optuna
import pytest

from tests.searching.test_concurrent_trials import metrics
from tests.searching.test_search import finished_exactly, worker_logs


def test_compiled_search_has_the_numbers_of_an_eager_one_and_publishes_what_it_compiled(workspace) -> None:
    for mode in ("eager", "compile"):
        done = workspace.run(
            *("search", "--study", f"in-{mode}", "study=tiny", "--workers", "1", "--trials", "2"),
            *(f"device.mode={mode}", "training.epochs=1", "training.learning_rate=0.01", "training.milestones=[]"),
        )
        assert done.returncode == 0, done.stderr
        assert finished_exactly(workspace.status(f"in-{mode}"), 2)
        url = workspace.run("db", "url").stdout.strip()
        trials = optuna.load_study(study_name=f"in-{mode}", storage=url).trials
        assert [trial.user_attrs["kdhpc"]["run"]["mode"] for trial in trials] == [mode, mode]
    eager, compiled = metrics(workspace, "in-eager"), metrics(workspace, "in-compile")
    for number in (0, 1):
        assert compiled[number][0]["train_losses"] == pytest.approx(eager[number][0]["train_losses"], rel=1e-3)
    assert "published the compile cache" in worker_logs(workspace, "in-compile")
    assert len(list((workspace.folder / "runs" / "compile-cache").iterdir())) == 1
