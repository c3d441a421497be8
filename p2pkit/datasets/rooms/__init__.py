"""Generated rooms: layout, furniture, textures, and an RGB-D camera that sees them."""
