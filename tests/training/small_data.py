"""A small space and little data, for trainings of seconds."""

from hwnas.testing.training import blobs, tiny_space

__all__ = ["blobs", "tiny_space"]
