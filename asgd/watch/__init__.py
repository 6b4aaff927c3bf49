"""A run as it goes: read from its files, shown on a terminal. The display of a run and ``asgd.watch`` share it."""
