"""Little data, for tests of datasets."""

SMALL = {"train": 300, "validation": 120, "test": 130}  # scenes of cluttered digits
