"""Data sets: one class per source, batches addressed by (seed, epoch, rank, workers)."""
