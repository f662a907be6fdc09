"""Many runs on Ray (`sorl-sweep`): train and evaluate tasks x settings x seeds, and compare them.

`description` reads a TOML file and `settings` checks its values; `plan` turns it into runs; `runner` gives them to Ray
(`cluster`). A Ray task (`task`) keeps one process (`child`) that trains and evaluates in the run's `folder`. `table`,
`comparison` and `page` render what the folders hold. `cli` is the command. No other room imports from here.
"""
