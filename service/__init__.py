"""Settings, processes, HTTP and the command line; puts the other packages together."""
