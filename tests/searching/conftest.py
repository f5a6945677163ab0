"""Searches on one machine, with a real PostgreSQL and a tiny data set."""

from tests.cluster.conftest import fake_slurm as fake_slurm
from tests.cluster.conftest import workspace as workspace
