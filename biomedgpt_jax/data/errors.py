"""The error of the data layer."""


class DataError(Exception):
    """Bad input data. The message names what, where, what was expected and found, and what to do (exit
    code 1).
    """
