"""What can go wrong while producing events.

ProducerError
├── EventFileError        a file of events cannot be written
├── FlightsMissingError   the package that holds the flights is not installed
└── RateError             a rate that is not above zero (a ValueError too)
"""


class ProducerError(Exception):
    """Any failure of the producer; its message is one line that says what, where and what to do."""


class EventFileError(ProducerError):
    """A file of events cannot be written."""


class FlightsMissingError(ProducerError):
    """The package that holds the flights is not installed, or not whole."""


class RateError(ProducerError, ValueError):
    """A rate that is not above zero."""
