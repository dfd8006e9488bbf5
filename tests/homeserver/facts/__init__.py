"""The facts, a file a subject."""
