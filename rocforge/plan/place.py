"""Which device runs each op, and why. Knows devices by what the probe says of them."""

import logging
from dataclasses import replace

from rocforge.plan.ir import Plan
from rocforge.probe.device import Device

log = logging.getLogger(__name__)


def place(plan: Plan, device: Device) -> Plan:
    """Every op on `device`, named in the plan so that `explain` can show it."""
    log.info("%d ops on %s: %s", len(plan.ops), device.name, device.reason)
    return replace(plan, ops=tuple(replace(op, device=device.kind) for op in plan.ops))
