"""The engine of a run: its plan, the scheduler of requests, the filters, and the loop that sends and stores.

Start with ``scheduler``, then ``row_filters`` and ``loop``.
"""
