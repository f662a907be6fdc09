"""Sample-and-score on GPUs: one Triton launch from noise to chosen action.

`backend` has `TritonBackend`. It uses `configuration` (the tile sizes), `packing` (the weights), `arena` and `bucket`
(the buffers), `launch`, and `check` (comparison with the reference). The kernel is in `kernel`; its parts are `noise`,
`layers` and `selection`. Only those four and `launch` import triton, and only when a backend is created.
"""
