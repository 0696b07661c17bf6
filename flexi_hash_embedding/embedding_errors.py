"""What can go wrong in this package.

FlexiHashError (ValueError)
├── SettingError        a constructor argument can't be used
└── FeatureError        X can't be embedded
    ├── FeatureRowError     X is not a list of dicts
    ├── FeatureKeyError     a key is not a string
    └── FeatureValueError   a value is not a finite number, nor a string
"""


class FlexiHashError(ValueError):
    """Root of this package's errors; a ValueError, since each is about a value that the caller passed."""


class SettingError(FlexiHashError):
    """A constructor argument can't be used; the message names it, its value and what is allowed."""


class FeatureError(FlexiHashError):
    """The features given can't be embedded."""


class FeatureRowError(FeatureError):
    """X is not a list of dicts."""


class FeatureKeyError(FeatureError):
    """A feature's key is not a string; the message names the row and the key."""


class FeatureValueError(FeatureError):
    """A feature's value is not a finite number that fits; the message names the row and the key."""
