"""The one error for data that cannot be used."""


class DataError(ValueError):
    """Broken data: the message names the shard, the key or the offset in bytes, and the cause."""
