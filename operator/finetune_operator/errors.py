"""What can go wrong between the operator and the cluster; one tree, each with what was asked and what was answered."""


class OperatorError(Exception):
    """Anything that the operator raises on purpose."""


class ClusterError(OperatorError):
    """The API server did not do what was asked.

    `code` is the HTTP status, 0 when there was no answer; `reason` the Status object's, such as AlreadyExists;
    `retry_after_s` what the server asked to wait, None when it did not.
    """

    def __init__(self, message: str, code: int = 0, reason: str = "", retry_after_s: float | None = None) -> None:
        """Keep the answer's parts."""
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after_s = retry_after_s


class Unreachable(ClusterError):
    """No answer, or the server is not able to give one (5xx)."""


class NotFound(ClusterError):
    """The object does not exist."""


class AlreadyExists(ClusterError):
    """An object of that name exists."""


class Conflict(ClusterError):
    """The object was changed since it was read."""


class Throttled(ClusterError):
    """Too many requests; `retry_after_s` says how long to wait."""


class Refused(ClusterError):
    """Quota, limits or admission refuse the object (403, 422); the message says which."""


class Gone(ClusterError):
    """The resource version is too old to watch from (410)."""


class NamespaceTerminating(Refused):
    """The namespace is being deleted; nothing can be created in it."""


class OwnershipConflict(OperatorError):
    """A child's name is taken by an object that is not ours; it is never adopted."""
