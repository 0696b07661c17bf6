"""The commands of `flexihash`, each in a file: its options, what comes of it, and how that is shown.

They import what they work with when they run, so that the list of them comes at once.
"""
