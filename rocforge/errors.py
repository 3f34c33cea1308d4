"""What can be a user's fault, by kind. Every message says what is wrong, where, and what to do."""


class RocForgeError(Exception):
    """Base of all errors that a user can cause and a user can mend."""


class ModelError(RocForgeError):
    """The model file is unreadable, malformed, or of a kind that is not supported."""


class DeviceError(RocForgeError):
    """The device asked for is absent or cannot run the model."""


class CapacityError(RocForgeError):
    """The request or the model does not fit into the memory or the context at hand."""


class RequestError(RocForgeError):
    """A parameter of a call or a command is out of its range."""
