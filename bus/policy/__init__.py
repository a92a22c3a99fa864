"""Delivery policies, one idea a file; most are pure, with times as arguments.

Before an attempt, in this order: `expiry`, then what `guard` puts together for a subscription that asks for
it: predicate, `dedupe`, `breaker`, `rate`. While it runs: `timeout`; `causes` and `storm` for what is
published meanwhile. When it has failed: `retry`. `waits` is how a lane waits for a moment.
"""
