"""`sorl-sweep`: trainings and evaluations over tasks x settings x seeds, as Ray tasks."""
