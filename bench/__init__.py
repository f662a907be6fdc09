"""`sorl-bench`: what it costs, against named peers and against the machine's own limit."""
