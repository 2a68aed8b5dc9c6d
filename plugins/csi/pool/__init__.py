"""Storage: a directory on a reflink filesystem, the images in it, and the loop devices that show them as disks."""
