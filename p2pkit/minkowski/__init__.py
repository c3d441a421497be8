"""MinkowskiEngine: building, caching and checking it, and the state of the set-up."""
