"""The blocking faces: the async cores, driven in the calling thread, under the documented names.

Each method is one line: the logic is the core's. ``aio`` is the same tool for ``await``: the same server, settings and
counters. `ractogateway.redis` names them all.
"""
