"""What commands tell in one sentence, without a traceback."""


class ExpectedError(Exception):
    """An error whose message says all that there is to say: what was found, what to do.

    Commands tell it as they tell a `ValueError` or an `OSError`.
    """
