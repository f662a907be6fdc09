"""`sorl-bench fleet`: success of simulated robots while other requests take the server's compute.

`rules` has the contestants: how they ask. `robots` drives episodes, asking by `client`, and `load` sends the other
requests, each in processes of their own, which `interrupts` keeps from Ctrl-C. `report` has the figures, the tables and
the plot, and `cli` the settings.
"""
