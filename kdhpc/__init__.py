"""Search, on a Slurm cluster, for how networks should teach each other so that their ensemble is accurate."""

__version__ = "0.1.0"
