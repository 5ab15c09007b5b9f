"""The one error that is the user's to mend."""


class SettingError(ValueError):
    """What is wrong with a setting: its value, what was expected, and the next step, in one sentence.

    A command ends with exit code 2 on it, and nothing has been written.
    """
