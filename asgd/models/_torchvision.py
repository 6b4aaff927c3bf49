"""The one place that imports torchvision: ``from asgd.models._torchvision import torchvision``, inside a function.

Importing it costs more than a second, so it is imported only when something of it is used.

The torchvision wheels on the package index are built for CUDA, and on a CPU-only torch their C++ extension does not
load. torchvision tolerates that, except that it registers shape functions for two operators of the extension, so that
``import torchvision`` ends with "operator torchvision::nms does not exist". Declaring the two operators is enough: no
classifier or transform calls them, and calling one still fails with torchvision's own message.

They are declared only after an import has failed in just this way, because only then is it certain that the extension
will not declare them itself; a second declaration would be an error. Any other failure is passed on.
"""

import importlib
import sys
from types import ModuleType

import torch

_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # declarations live as long as this object


def _import() -> ModuleType:
    """torchvision, without the submodules that a failed import leaves behind and a new one would not be linked to."""
    if "torchvision" not in sys.modules:
        for leftover in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[leftover]
    return importlib.import_module("torchvision")


def _declare() -> None:
    for operator in ("nms", "qnms"):
        _OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


try:
    torchvision = _import()
except RuntimeError as error:
    if "operator torchvision::" not in str(error):
        raise
    _declare()
    torchvision = _import()
