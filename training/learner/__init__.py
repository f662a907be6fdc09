"""One SORL update: the learner, the randomness it consumes, and what computes it.

`Learner` holds networks and optimisers and orders an update's steps; the maths is in `training.losses`. `Draws` is the
randomness of one update and `RandomStream` the generator it comes from. `choose_compute` picks the implementation:
torch's operators, the same as CUDA graphs, or the native CPU networks.
"""

from training.learner.compute import Choice, Compute, TorchCompute, choose_compute
from training.learner.draws import Draws, RandomStream
from training.learner.learner import Learner

__all__ = ["Choice", "Compute", "Draws", "Learner", "RandomStream", "TorchCompute", "choose_compute"]
