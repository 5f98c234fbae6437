"""Unbiased or not, and why: every objective's expected gradient, summed exactly (`python -m agents.verify`)."""
