//! What the three processes say to each other, and the sequenced sockets they say it over.

#![forbid(unsafe_code)]
