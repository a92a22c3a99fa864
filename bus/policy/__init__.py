"""Delivery policies, one idea a file.

`expiry` and `causes` look at a delivery before its handler runs, `timeout` while it runs, `retry` when
it has failed. The order is that of the loop in `delivery.py`.
"""
