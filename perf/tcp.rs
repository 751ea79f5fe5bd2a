//! TCP throughput by iperf3, and what it costs the contender in CPU time.

use crate::Bench;
use crate::report::Report;
use ringtap::bench::cost::cpu;
use ringtap::bench::iperf3::{self, transfer};
use ringtap::lab::contender::Contender;
use ringtap::lab::{LabError, Running, addr};
use std::error::Error;

/// Takes each figure once, contenders in turn.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let _server = server(bench)?;
    let server = addr::SERVER_V4.to_string();
    for &mtu in &bench.options.mtus {
        for contender in bench.contenders() {
            // The direct path has one MTU, that of the link.
            if contender == Contender::Direct && mtu != bench.options.mtus[0] {
                continue;
            }
            let (guest, inner) = bench.guest(&contender, mtu)?;
            let place = inner.as_ref().unwrap_or(&guest).place();
            for &streams in &bench.options.streams {
                for (way, options) in [("to server", &[][..]), ("to guest", &["-R"][..])] {
                    let before = cpu(&guest);
                    let bits = transfer(place, &server, bench.options.seconds, streams, options)?;
                    let spent = cpu(&guest) - before;
                    let row = format!(
                        "TCP {streams} stream{} {way}, MTU {mtu}",
                        if streams == 1 { "" } else { "s" }
                    );
                    report.add(&format!("{row}, Gbit/s"), contender.name(), bits.rate / 1e9);
                    if contender != Contender::Direct {
                        let gigabytes = bits.bytes / 1e9;
                        report.add(&format!("{row}, CPU s/GB"), contender.name(), spent / gigabytes);
                    }
                }
            }
        }
    }
    Ok(())
}

/// An iperf3 server behind the link.
pub fn server(bench: &Bench) -> Result<Running, LabError> {
    iperf3::server(bench.lab.internet(), addr::SERVER_V4.into())
}
