"""``engine=zmq``: a star. Workers call the server, over one port, and come, crash and return at any moment.

From the bottom: ``session``, ``client`` and ``desk`` (each call is acted on once, whatever the network does; no socket,
no clock), ``post`` and ``caller`` (the two ends as threads with a ZeroMQ socket), ``contents`` (what is called: typed
messages and vectors), ``service`` and ``roles`` (the server and the workers), ``supervisor`` (all of them on this
machine), ``cluster`` (all on a Ray cluster).
"""
