"""`sorl-results`: the paper's claims, tested on policies of this project and published as tables, plots and pages."""
