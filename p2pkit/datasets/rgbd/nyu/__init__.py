"""NYUv2, as a folder of images and as the published `nyu_depth_v2_labeled.mat`."""
