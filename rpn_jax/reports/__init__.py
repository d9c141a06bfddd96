"""Reports: what runs have left in their folders, compared, in tables, plots and pictures."""
