#![no_main]

vadpipe_fuzz::target!("journal");
