"""Slurm's answers, made up."""

from tests.cluster.conftest import fake_slurm as fake_slurm
