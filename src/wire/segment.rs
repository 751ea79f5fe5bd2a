//! Software segmentation, fragmentation and checksums for what a tap cannot take as it is.
