"""The two ways a command can fail. Each ends in one message for the user, without a traceback."""


class InputError(Exception):
    """The input cannot be used: an invalid configuration, a missing file, a broken mask. Exit code 2.

    Args:
        message: What is wrong, what was expected, and how to fix it.
        argument: Name of the function argument at fault. It precedes the message; a command replaces it by its option.
    """

    def __init__(self, message: str, argument: str = ""):
        super().__init__(f"{argument}: {message}" if argument else message)
        self.message = message
        self.argument = argument

    def for_command_line(self) -> str:
        """The message with the argument written as an option: ``--batch-size`` for ``batch_size``."""
        return f"--{self.argument.replace('_', '-')}: {self.message}" if self.argument else self.message


class RunError(Exception):
    """The run itself failed: the loss diverged, the disk is full. Exit code 1."""


def nearest(word: str, choices) -> str:
    """Return ``"; did you mean …?"`` if one of ``choices`` is close to ``word``, else an empty string."""
    import difflib

    known = {str(choice).lower(): str(choice) for choice in choices}
    word = str(word)[:500].lower()
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {known[matches[0]]}?" if matches else ""


def shortened(text: str, limit: int = 200) -> str:
    """Return ``text``, or its beginning and end if it is longer than ``limit`` characters."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-(limit // 2) :]}"
