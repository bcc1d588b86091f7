"""Multi-task learning of crystal properties as batch jobs on HPC clusters."""

__version__ = "0.1.0"
