//! What a process gives up before it touches a packet.
