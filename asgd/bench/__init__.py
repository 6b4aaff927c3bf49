"""What it costs to exchange parameters: ours beside its peers and the memory's own limit, without any training."""
