"""Faults on real runs: what ``engine=zmq`` promises, checked with a ledger.

    python -m tests.chaos --seed 7 --minutes 10

From the bottom: ``nodes`` (workers whose updates can be counted, and the named points at which a node's process does
what a fault says), ``faults`` (which ones there are, drawn from a seed), ``network`` (proxies that cut, hold back, lose
and repeat), ``trial`` (a run with its faults, from the outside), ``ledger`` (how often each update was applied).
"""
