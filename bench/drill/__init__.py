"""`sorl-bench drill`: inject faults into a server under load, and check the reply to every request.

`plan` makes the requests, `client` sends them, and `ledger` records the replies. `faults` runs the server and injects
the faults. `versions` has the policies and their correct actions, and `judge` finds the violations. `deadlines` says
how requests with deadlines fared.
"""
