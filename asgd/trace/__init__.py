"""The timeline of a run: who did what when, as a file for Perfetto."""
