#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ringtap_fuzz::protocols::dhcp4(data));
