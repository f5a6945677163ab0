"""From the name of a method to its class, and from a config to a method."""

import dataclasses
import importlib
from typing import cast

from kdhpc.config.schema import RunConfig, TrainConfig
from kdhpc.errors import ConfigError
from kdhpc.methods.method import Method, OpenRun
from kdhpc.methods.registry import GRAPH, METHODS, named_methods


def method_class(name: str) -> type[Method]:
    """The class of a method in the registry."""
    module, _, attribute = METHODS[name].code.partition(":")
    return cast("type[Method]", getattr(importlib.import_module(module), attribute))


def load_method(config: TrainConfig, open_run: OpenRun) -> Method:
    """The method that a config names as ``run.graph``.

    Args:
        config: Config of a final training.
        open_run: Opens another training that the config names.

    Raises:
        ConfigError: an option is missing, or has no meaning for this method.
        DataError, NetworkError: a run that it needs is damaged.
        GraphError: it is neither a method, nor a preset, nor a file; or the file is damaged, or its graph does not fit.
    """
    name = config.run.graph if config.run.graph in named_methods() else GRAPH
    _refuse_other_options(config.run, name)
    return method_class(name).from_config(config, open_run)


def _refuse_other_options(run: RunConfig, name: str) -> None:
    """Refuse the options of other methods."""
    defaults = {field.name: field.default for field in dataclasses.fields(RunConfig)}
    options = {option: None for entry in METHODS.values() for option in entry.options}
    for option in options:
        value = getattr(run, option)
        if option not in METHODS[name].options and value != defaults[option]:
            having = " or ".join(other for other, entry in METHODS.items() if option in entry.options)
            raise ConfigError(
                f"run.{option}={value} has no meaning for run.graph={run.graph}: leave it out, or give --graph {having}"
            )
