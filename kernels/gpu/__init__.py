"""Sample-and-score for GPUs: one Triton launch from noise to chosen action.

`configuration` (which tile) -> `packing` (weights) -> `arena`, `bucket` (buffers) -> `backend` (`TritonBackend`).
Kernel: `noise`, `layers`, `selection` are its parts, `kernel` puts them together. Nothing but those four and
`launch` imports triton, and they are imported when a backend is made.
"""
