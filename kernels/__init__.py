"""How a policy is sampled and scored.

`backend` has the interface and its values, `choice` creates a backend. `reference` is the definition that every other
backend is tested against, with its noise (`philox`) and its Euler steps (`schedule`); cpu/ and gpu/ are the fast
backends. `threads` decides how many CPU threads compute may use. `commands` handles the end of command-line programs.
"""
