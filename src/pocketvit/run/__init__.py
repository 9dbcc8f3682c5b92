"""A run's folder: what lies where in it, who may write there, and the evidence of how it came about."""
