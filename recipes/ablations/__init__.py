"""A study of what the parts of SpecTokenizer are worth: its plan, and the tables of its results."""
