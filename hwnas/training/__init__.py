"""Data, and the training and evaluation of a supernet on it."""
