"""All that a node of a run imports, for the process that nodes are forked from."""
# ruff: noqa: E402, F401

import gc

gc.disable()  # modules are no garbage, and looking for some among them takes a fifth of the time to import them

import torch._dynamo  # which the first optimizer of a process would import, in a second

import asgd.engines.local
import asgd.engines.star.roles

gc.freeze()  # so that no node looks through them, and their memory stays shared
gc.enable()
