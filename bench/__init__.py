"""`sorl-bench`: benchmarks, a cost model and checks. Each subcommand is a module or a folder, and prints a table.

`cli` finds the subcommand. Modules without a subcommand are shared: `process`, `connection`, `openloop` and `wrk` run
servers and load, `table` and `machine` report, and `cpu_peers`, `peers`, `peers_http`, `released` run other software.
"""
