"""ScanNet: its frames, .sens files and labels; whole scenes are in `datasets/points`."""
