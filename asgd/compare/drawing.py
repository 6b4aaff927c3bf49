"""The part of a comparison that needs matplotlib and plotly."""

from asgd.compare.figures import write as figures
from asgd.compare.page import content as page

__all__ = ["figures", "page"]
