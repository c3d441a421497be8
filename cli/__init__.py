"""The command line: parse, call one stage, print the path made."""
