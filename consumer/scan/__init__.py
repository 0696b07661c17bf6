"""The fast path of decoding: plain flat events go from JSON bytes to hashed rows in one compiled loop.

It gives what parsing, flattening and hashing would give, bit for bit, or leaves the message to them. Left are: nested
features, escapes in them (but in texts), a name that comes twice, the rare number whose nearest float64 is hard to
tell, events beyond a limit, and everything that is not valid. What lies around the features and is no label or weight
is skipped, whatever it is, but looked at: it must be valid too.

The messages lie in one buffer, each followed by a byte 0, which JSON does not allow anywhere. So every loop over bytes
ends at the message's end without looking where that is.

Memory is read and written by address, not through arrays: Numba counts references to an array on every call that takes
one, in atomic steps that would double the time. The machine must be little-endian.

    scanner                      the loop over messages
    flat_events                  one event
    flat_features                what a name and its value give
    layout                       the objects on the way to its fields
    names, values                what an event is made of
    skipping, runs               what nobody reads, and what of that was the same in the message before
    book                         names that patterns have decided on, and labels
    text, decimals               what those are made of

Rows are those of `model.murmur`, and memory is read by `model.words`.
"""
