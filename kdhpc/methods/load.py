"""From the name of a method to its class, and from a config to a method."""

import importlib
from typing import cast

from kdhpc.config.schema import TrainConfig
from kdhpc.methods.method import Method, OpenRun
from kdhpc.methods.registry import METHODS, method_named, refuse_other_options


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
    refuse_other_options(config.run)
    return method_class(method_named(config.run.graph)).from_config(config, open_run)
