"""Keeps libraries from talking about what is theirs to mend, while a bundle is written and checked."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_TALKERS = ("torch", "torch.onnx", "onnxscript", "onnx_ir", "onnxruntime", "timm")


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, and of the libraries' logs errors alone: what comes out is checked."""
    loggers = [logging.getLogger(name) for name in _TALKERS]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
