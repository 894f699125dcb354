"""Where experts lie: slots and replicas, their balance under loads, and the policies that plan it. Needs no torch."""

from weft.experts.balancing.balancer import POLICIES, LoadBalancer, Plan
from weft.experts.placement.placement import ExpertPlacement, Transfer, even_placement
from weft.experts.placement.routing import RoutingTable
from weft.experts.placement.shape import SlotShape
from weft.experts.statistics.loads import as_loads
from weft.experts.statistics.metric import Balance, balance, rank_loads

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
