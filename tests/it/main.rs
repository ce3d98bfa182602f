//! Stories about vadpipe as its users know it: the program, a pipeline, a cache.

mod bad_input;
mod browser;
mod chains;
mod freshness;
mod interruption;
mod layers;
mod repair;
mod shipped;
mod support;
