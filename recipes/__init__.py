"""Recipes: thin, editable scripts that put the library to work."""
