"""Models: each is a function or class with an explicit signature that returns a ``torch.nn.Module``.

A module maps inputs [n, *shape] to outputs [n, classes], or to [n, 1] where ``classes`` is 0 (regression). Weights are
drawn from torch's default generator, which the caller seeds (``asgd.task.build_task``). To add a model, write such a
function anywhere and name it as ``_target_`` in a file in ``conf/model``.
"""
