"""What computes: one module for each format of weights."""
