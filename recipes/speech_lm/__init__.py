"""A small language model of speech tokens: transcripts.py, train.py, speak.py and evaluate.py, in this order."""
