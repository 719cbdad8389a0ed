"""What each verb of the command line does, callable from Python: checks first, then work, then files."""
