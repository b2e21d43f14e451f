"""What the exact cache is made of: what is stored and read, computations that are shared, the near cache, counts."""
