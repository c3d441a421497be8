"""Engines for sparse convolutions, MinkowskiEngine and torch alone, and their norms."""
