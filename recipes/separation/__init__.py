"""A study of separation: the members of the bottleneck family in a small separator of speech, music and effects."""
