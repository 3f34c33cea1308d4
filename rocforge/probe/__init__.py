"""Which devices are here, what each can do, and which one is used. Knows no models."""

from rocforge.probe.device import CHOICES, Device, choose

__all__ = ["CHOICES", "Device", "choose"]
