"""The report of an evaluation: one HTML file for people, without scripts and without anything from elsewhere."""
