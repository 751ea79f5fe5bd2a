#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ringtap_fuzz::parsers::ipv6(data));
