"""Trackers: where the figures of a run also go, for those who keep their experiments there."""

from asgd.trackers.base import Nothing, Point, Tracker
from asgd.trackers.mlflow import Mlflow
from asgd.trackers.tensorboard import TensorBoard
from asgd.trackers.wandb import Wandb

__all__ = ["Mlflow", "Nothing", "Point", "TensorBoard", "Tracker", "Wandb"]
