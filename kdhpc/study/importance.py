"""Which choices made the best trials: PED-ANOVA, as Optuna computes it.

Source: Watanabe, Bansal and Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
Subspaces", IJCAI 2023; for parameters that not every trial has, "Conditional PED-ANOVA", arXiv 2601.20800. Both are
computed by Optuna from counts alone, without scikit-learn.
"""

import warnings
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances


class _Choices(CategoricalDistribution):
    """Equal to itself alone, and never copied: Optuna would copy and compare those of a parameter for each trial."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __deepcopy__(self, memo: dict[int, object]) -> "_Choices":
        return self


def importances(
    ranked: Sequence[Mapping[str, str]], choices: Mapping[str, Sequence[str]], *, num_top: int
) -> dict[str, float]:
    """How much a parameter's choices differ between the best trials and all of them.

    Args:
        ranked: What each trial chose, by the parameter's name, best trial first. A parameter that has no effect in a
            trial is left out there.
        choices: The possible choices of each parameter.
        num_top: How many trials are the best ones, at least 1 and fewer than there are.

    Returns:
        By name; they add up to 1, unless all are 0. Parameters that no trial has, or that have one choice, have 0.
    """
    kinds: dict[str, BaseDistribution] = {
        name: _Choices(tuple(allowed)) for name, allowed in choices.items() if len(allowed) > 1
    }
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of parameters that few trials have: they get little.
            # What counts is the order of the trials alone, so that pruned ones can be placed.
            study = optuna.create_study(direction="minimize")
            study.add_trials(
                optuna.trial.create_trial(
                    value=float(rank),
                    params={name: choice for name, choice in chosen.items() if name in kinds},
                    distributions={name: kinds[name] for name in chosen if name in kinds},
                )
                for rank, chosen in enumerate(ranked)
            )
            evaluator = PedAnovaImportanceEvaluator(target_quantile=num_top / len(ranked))
            found = get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(level)
    return {name: float(found.get(name, 0.0)) for name in choices}
