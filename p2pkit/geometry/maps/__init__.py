"""The cells of a teacher's map: where they sit in the image, upsampling, and superpixels."""
