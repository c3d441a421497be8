"""The stages, each as `run(config)`: the only layer that joins the data side and the model side."""
