"""`sorl-bench`: what can be measured, modelled or gated; one module a subcommand. Each prints a table."""
