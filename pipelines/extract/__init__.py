"""extract: a recording in, a store out; planning it and mending it."""
