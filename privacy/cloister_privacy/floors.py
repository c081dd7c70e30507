"""What a device insists on before it takes part in secure aggregation.

These are the owner's numbers. A round that offers less is left with the reason; nothing that comes
from outside lowers them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cloister_privacy.counters import UNCLIPPED_STEPS
from cloister_privacy.errors import BelowFloor
from cloister_privacy.noise import honest_survivors
from cloister_privacy.parameters import complete_threshold, secure
from cloister_privacy.terms import Terms
from cloister_protos import Graph

SECURITY_BITS = 40
"""A ring may fail to hide an update with a chance of at most 2^-40."""
ROUNDING = 1.05
"""By so much rounding may lengthen an update before more noise is wanted for it."""


@dataclass(frozen=True)
class Floors:
    """Least protection a device accepts."""

    minimum_cohort: int = 3
    """Fewest members whose sum this device's update may become part of."""
    corrupt_fraction: float = 0.0
    """Share of the members that may collude with the coordinator without learning anything."""
    ring: bool = False
    """Whether a sparse graph is accepted, which a coordinator that breaks the protocol defeats."""
    noise_multiplier: float = 0.0
    """Least standard deviation of the noise that honest members put into the sum themselves, over
    the clipping norm."""

    def check_terms(self, terms: Terms) -> None:
        """Before anything is sent. Raises BelowFloor."""
        offered, settings = terms.secure, terms.secure.settings
        if offered.minimum < self.minimum_cohort:
            raise BelowFloor(
                f"the sum may be over {offered.minimum} members;"
                f" this device wants at least {self.minimum_cohort}"
            )
        if not settings.corrupt_fraction >= self.corrupt_fraction:  # so that NaN is below, too
            raise BelowFloor(
                f"a share of {settings.corrupt_fraction:g} is assumed to collude;"
                f" this device assumes {self.corrupt_fraction:g}"
            )
        if settings.graph == Graph.GRAPH_RING and not self.ring:
            raise BelowFloor("a sparse graph trusts the coordinator to follow the protocol")
        if self.noise_multiplier:
            if not (offered.private and settings.max_weight == 1):
                raise BelowFloor(
                    "this device wants noise in the sum; then no update may count for more than 1"
                    " and no exact metrics may be summed, as differential privacy has it"
                )
            honest = honest_survivors(offered.minimum, offered.members, settings.corrupt_fraction)
            encoding = terms.encoding
            noise = math.sqrt(honest * offered.noise_variance) * encoding.step
            if noise < self.noise_multiplier * terms.clip_norm * (1 - 1e-9):
                raise BelowFloor(
                    f"the members' noise is {noise / terms.clip_norm:.4g} clipping norms;"
                    f" this device wants at least {self.noise_multiplier:g}"
                )
            # with few bits an update is mostly rounding, and much longer than the norm
            longest = encoding.sensitivity(terms.parameters) * encoding.step
            if noise < self.noise_multiplier * longest / ROUNDING:
                raise BelowFloor(
                    f"rounded to {settings.value_bits} bits an update may have"
                    f" {longest / terms.clip_norm:.4g} clipping norms, and the members' noise is"
                    f" {noise / longest:.4g} of that; this device wants at least"
                    f" {self.noise_multiplier:g}"
                )
            count = math.sqrt(honest * offered.count_variance) / UNCLIPPED_STEPS
            if count and not count >= self.noise_multiplier * (1 - 1e-9):
                raise BelowFloor(
                    f"the noise on the number of unclipped updates is {count:.4g};"
                    f" this device wants at least {self.noise_multiplier:g}"
                )

    def check_graph(self, terms: Terms, members: int, degree: int, threshold: int) -> None:
        """Once the roster is known. Raises BelowFloor."""
        corrupt = max(self.corrupt_fraction, terms.secure.settings.corrupt_fraction)
        least = max(self.minimum_cohort, terms.secure.minimum)
        if members < least:
            raise BelowFloor(f"the roster has {members} members, of at least {least}")
        if terms.secure.settings.graph == Graph.GRAPH_RING:
            if not secure(members, degree, threshold, corrupt, SECURITY_BITS):
                raise BelowFloor(
                    f"{threshold} shares among {degree} neighbours of {members} members"
                    f" give less than {SECURITY_BITS} bits of security"
                )
        elif degree != members - 1:
            raise BelowFloor(f"{degree} neighbours are not all of {members} members")
        elif not complete_threshold(members, corrupt) <= threshold <= members:
            raise BelowFloor(
                f"{threshold} of {members} shares bring back a secret;"
                f" it must take {complete_threshold(members, corrupt)}"
            )
