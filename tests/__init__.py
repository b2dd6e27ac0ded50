"""The tests of Foreshock, which mirror src/foreshock path by path."""
