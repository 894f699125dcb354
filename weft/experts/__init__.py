"""Where experts lie: slots and replicas, their balance under loads, and the policies that plan it. Needs no torch."""

from weft.experts.balancer import POLICIES, LoadBalancer, Plan
from weft.experts.loads import as_loads
from weft.experts.metric import Balance, balance, rank_loads
from weft.experts.placement import ExpertPlacement, Transfer, even_placement
from weft.experts.routing import RoutingTable
from weft.experts.shape import SlotShape

__all__ = [
    "POLICIES",
    "Balance",
    "ExpertPlacement",
    "LoadBalancer",
    "Plan",
    "RoutingTable",
    "SlotShape",
    "Transfer",
    "as_loads",
    "balance",
    "even_placement",
    "rank_loads",
]
