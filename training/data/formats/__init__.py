"""Where offline data comes from: one module a file format, each with `read(...) -> Source`."""
