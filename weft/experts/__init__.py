"""Expert placement: slots and replicas, balance under loads, and the policies that plan placements. Needs no torch."""

from weft.experts.balancing.balancer import POLICIES, BalancePlan, LoadBalancer
from weft.experts.placement.placement import ExpertPlacement, Transfer, even_placement
from weft.experts.placement.routing import RoutingTable
from weft.experts.placement.shape import SlotShape
from weft.experts.statistics.loads import as_loads
from weft.experts.statistics.metric import Balancedness, balance, rank_loads

__all__ = [
    "POLICIES",
    "Balancedness",
    "ExpertPlacement",
    "LoadBalancer",
    "BalancePlan",
    "RoutingTable",
    "SlotShape",
    "Transfer",
    "as_loads",
    "balance",
    "even_placement",
    "rank_loads",
]
