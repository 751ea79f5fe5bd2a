//! Opening a tap device and finding out what it can take off our hands.
