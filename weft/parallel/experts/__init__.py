"""Expert placement: slots and replicas, balance under loads, and the policies that plan placements. Needs no torch."""

from weft.parallel.experts.balancing.balancer import POLICIES, BalancePlan, LoadBalancer
from weft.parallel.experts.placement.placement import ExpertPlacement, Transfer, even_placement
from weft.parallel.experts.placement.routing import RoutingTable
from weft.parallel.experts.placement.shape import SlotShape
from weft.parallel.experts.statistics.loads import as_loads
from weft.parallel.experts.statistics.metric import Balancedness, balance, rank_loads

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
