"""The two ways a command can fail; each is one message for a person, without a traceback."""


class InputError(Exception):
    """What was given cannot be used: a wrong config, a missing file, a broken mask. Exit code 2."""


class RunError(Exception):
    """The run itself failed: the loss diverged, the disk is full. Exit code 1."""


def nearest(word: str, choices) -> str:
    """``"; did you mean …?"`` where one of ``choices`` is close to ``word``, else an empty string."""
    import difflib

    known = {str(choice).lower(): str(choice) for choice in choices}
    matches = difflib.get_close_matches(str(word).lower(), known, n=1, cutoff=0.5)
    return f"; did you mean {known[matches[0]]}?" if matches else ""
