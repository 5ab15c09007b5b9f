"""The errors that a command shows as one message, without a traceback of its own."""


class SettingError(ValueError):
    """What is wrong with a setting: its value, what was expected, and the next step, in one sentence.

    A command ends with exit code 2 on it, and nothing has been written.
    """


class WorkError(RuntimeError):
    """What was asked for was right, and the work failed. A command ends with exit code 1 on it."""


class LaunchError(WorkError):
    """A rank failed. The message names the first rank that did, and holds that rank's own traceback."""

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message)
        self.rank = rank

    def _render_traceback_(self) -> list[str]:
        """IPython shows this in place of the frames of the launcher, which say nothing about the fault."""
        return str(self).splitlines()


def printable(text: str) -> str:
    """Text of a file that anybody may have written, on one line and without what a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "?" for c in text)
