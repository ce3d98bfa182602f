#![no_main]

vadpipe_fuzz::target!("packs");
