"""The frequency axis to a few vectors and back: learnable queries, or one of the forms that they are compared with."""
