"""What a student takes of a sample's points: inputs, cylindrical voxels, WaffleIron's planes."""
