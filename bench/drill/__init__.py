"""`sorl-bench drill`: faults under load, and an account of every request."""
