"""`sorl-bench serve`: our server and its peers over HTTP.

`peak`, `head_of_line`, `overload`, `elastic` and `protocols` are the sections. `contestants` has the servers, `check`
compares their replies with the reference, and `setup` has the settings.
"""
