//! The virtio-net header (`struct virtio_net_hdr_v1`, 12 bytes, VIRTIO 1.2 section 5.1.6) that travels before each
//! frame of a tap opened with `IFF_VNET_HDR`.

/// Length that the stack sets with `TUNSETVNETHDRSZ`.
pub const LEN: usize = 12;
