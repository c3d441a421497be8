"""The compiled inner loops of p2pkit.geometry; the functions that call them check the arguments."""
