"""asgd: the laboratory for asynchronous distributed training."""

import os

# TensorPipe logs a warning for every connection that a peer closes, so each normal end of a run looks like a failure.
# Real failures arrive as exceptions. The level is read when torch is first imported.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

__version__ = "0.1.0"
