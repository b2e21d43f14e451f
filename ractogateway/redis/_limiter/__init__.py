"""What the rate limiter is made of: what is charged, reservations, waiting, slices, and life without Redis."""
