"""The document: reads the records of runs, and makes one report of them.  Nothing below imports it."""
