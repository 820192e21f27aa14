"""What a service has in memory when it begins to serve."""

import gc


def settle_heap() -> None:
    """Have the collector of cycles look no more at what is in memory now, because it stays.

    With torch loaded that is a million objects, and a collection that goes through them holds every thread up. To be
    called once, when everything is loaded.
    """
    gc.collect()
    gc.freeze()
