"""The fixture that op tests share."""

from tests.ops.rooms import room  # noqa: F401
