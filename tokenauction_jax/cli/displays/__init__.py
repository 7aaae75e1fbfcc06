"""What the command line shows: live progress, coloured texts and tables."""
