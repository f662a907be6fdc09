"""N and M from a deadline: the cost model, the measured frontier and the rule that grants a budget. Arithmetic only."""

from service.budget.admission import Admission, CostPrediction, Grant
from service.budget.cost_model import TERMS, CostModel
from service.budget.limits import Limits

__all__ = ["TERMS", "Admission", "CostModel", "CostPrediction", "Grant", "Limits"]
