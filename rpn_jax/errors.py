"""The one exception that the command line shows as a line instead of a traceback."""


class UserError(Exception):
    """Something that the user can put right; the message is one line that says how.

    It names the file or the config field, what is wrong with it, and the remedy.
    """
