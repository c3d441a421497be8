"""Files that recordings consist of: images, text, MATLAB's. What they mean is left to readers."""
