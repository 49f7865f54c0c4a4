"""The one exception that becomes an answer: a refusal with a code that the caller can branch on."""


class Refusal(Exception):
    """A request that cannot be answered, for a reason the caller can act on."""

    def __init__(self, code: str, message: str, hint: str | None = None):
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
