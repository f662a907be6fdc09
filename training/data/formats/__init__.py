"""File formats of offline data: one module per format, each with `read(...) -> RawDataset`."""
