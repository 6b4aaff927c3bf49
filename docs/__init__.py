"""The pages of the documentation, and what writes those that are made of other files."""
