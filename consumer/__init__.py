"""From a log to the model: what an event means, who reads it, what becomes of each record."""
